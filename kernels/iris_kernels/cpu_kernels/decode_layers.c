/* Attention of a few new rows over a key-value cache: the attention of decode_layers on a CPU.

   The time goes into reading the cache, so every key and value is read once. One head of one batch entry is a
   problem of its own. Up to FEW new rows: vectors run along the head, and the products with LANES keys are summed
   together. More: vectors run along LANES rows. Compiled for one HEAD_SIZE, a multiple of 16. */

#include "vectors.h"

#define PARTS (HEAD_SIZE / LANES)
#define FEW 2
#define KEYS 8
#define ROWS 4

/* a0+a1, a2+a3, ..., b0+b1, ...: log2(LANES) rounds of it sum LANES vectors to one. */
static inline vec add_pairs(vec a, vec b) {
#if LANES == 16
#define PAIRS(i) \
    i, i + 2, i + 4, i + 6, i + 8, i + 10, i + 12, i + 14, i + 16, i + 18, i + 20, i + 22, i + 24, i + 26, i + 28, i + 30
#elif LANES == 8
#define PAIRS(i) i, i + 2, i + 4, i + 6, i + 8, i + 10, i + 12, i + 14
#else
#define PAIRS(i) i, i + 2, i + 4, i + 6
#endif
#ifdef __clang__
    return __builtin_shufflevector(a, b, PAIRS(0)) + __builtin_shufflevector(a, b, PAIRS(1));
#else
    return __builtin_shuffle(a, b, (ivec){PAIRS(0)}) + __builtin_shuffle(a, b, (ivec){PAIRS(1)});
#endif
}

/* n <= FEW rows of q, `stride` apart; row i sees the first limits[i] of `length` keys.
   scores: room for n times length, rounded up to LANES. */
static inline void few_rows(const element *q, long stride, const element *keys, const element *values,
                            const int *limits, int n, int length, float *scores, element *out, long out_stride) {
    int padded = (length + LANES - 1) / LANES * LANES;
    vec query[FEW][PARTS], mixed[FEW][PARTS];
    for (int i = 0; i < n; i++)
        for (int p = 0; p < PARTS; p++) {
            query[i][p] = load(q + i * stride + p * LANES) * (1.0f / sqrtf(HEAD_SIZE));
            mixed[i][p] = (vec){0};
        }
    for (int t = 0; t < length; t += LANES) {
        vec products[FEW][LANES];
        for (int j = 0; j < LANES; j++) {
            const element *key = keys + (long)(t + j < length ? t + j : length - 1) * HEAD_SIZE;
            for (int i = 0; i < n; i++) products[i][j] = query[i][0] * load(key);
            for (int p = 1; p < PARTS; p++)
                for (int i = 0; i < n; i++) products[i][j] += query[i][p] * load(key + p * LANES);
        }
        for (int i = 0; i < n; i++) {
            for (int width = LANES / 2; width; width /= 2)
                for (int j = 0; j < width; j++)
                    products[i][j] = add_pairs(products[i][2 * j], products[i][2 * j + 1]);
            store_float(scores + (long)i * padded + t, products[i][0]);
        }
    }
    float total[FEW];
    for (int i = 0; i < n; i++) {
        float *row = scores + (long)i * padded;
        for (int t = limits[i]; t < padded; t++) row[t] = -INFINITY;
        vec best = all(-INFINITY), added = {0};
        for (int t = 0; t < padded; t += LANES) best = larger(best, load_float(row + t));
        float most = best[0];
        for (int j = 1; j < LANES; j++) most = best[j] > most ? best[j] : most;
        for (int t = 0; t < padded; t += LANES) store_float(row + t, exponential(load_float(row + t) - most));
        for (int t = limits[i]; t < padded; t++) row[t] = 0;
        for (int t = 0; t < padded; t += LANES) added += load_float(row + t);
        total[i] = sum(added);
    }
    for (int t = 0; t < length; t++)
        for (int p = 0; p < PARTS; p++) {
            vec value = load(values + (long)t * HEAD_SIZE + p * LANES);
            for (int i = 0; i < n; i++) mixed[i][p] += scores[(long)i * padded + t] * value;
        }
    for (int i = 0; i < n; i++)
        for (int p = 0; p < PARTS; p++) store(out + i * out_stride + p * LANES, mixed[i][p] / total[i]);
}

/* n <= LANES rows at once. scores: room for LANES times (length + KEYS). */
static void many_rows(const element *q, long stride, const element *keys, const element *values, const int *limits,
                      int n, int position, float *scores, element *out, long out_stride) {
    float columns[HEAD_SIZE][LANES] = {{0}};
    ivec limit = {0};
    int length = 1;
    for (int i = 0; i < n; i++) {
        float row[HEAD_SIZE];
        for (int p = 0; p < PARTS; p++)
            store_float(row + p * LANES, load(q + i * stride + p * LANES) * (1.0f / sqrtf(HEAD_SIZE)));
        for (int d = 0; d < HEAD_SIZE; d++) columns[d][i] = row[d];
        limit[i] = limits[i];
        length = limits[i] > length ? limits[i] : length;
    }
    vec best = all(-INFINITY);
    for (int t = 0; t < length; t += KEYS) {
        float key[KEYS][HEAD_SIZE];
        vec score[KEYS];
        for (int j = 0; j < KEYS; j++) {
            const element *from = keys + (long)(t + j < length ? t + j : length - 1) * HEAD_SIZE;
            for (int p = 0; p < PARTS; p++) store_float(key[j] + p * LANES, load(from + p * LANES));
            score[j] = (vec){0};
        }
        for (int d = 0; d < HEAD_SIZE; d++)
            for (int j = 0; j < KEYS; j++) score[j] += load_float(columns[d]) * key[j][d];
        for (int j = 0; j < KEYS; j++) {
            if (t + j >= position) score[j] = choose((t + j - (ivec){0}) < limit, score[j], all(-INFINITY));
            best = larger(best, score[j]);
            store_float(scores + (long)(t + j) * LANES, score[j]);
        }
    }
    vec total = {0};
    for (int t = 0; t < length; t++) {
        vec weight = exponential(load_float(scores + (long)t * LANES) - best);
        if (t >= position) weight = choose((t - (ivec){0}) < limit, weight, (vec){0});
        total += weight;
        store_float(scores + (long)t * LANES, weight);
    }
    for (int i = 0; i < n; i += ROWS) {
        vec mixed[ROWS][PARTS] = {{{0}}};
        for (int t = 0; t < length; t++)
            for (int p = 0; p < PARTS; p++) {
                vec value = load(values + (long)t * HEAD_SIZE + p * LANES);
                for (int r = 0; r < ROWS; r++) mixed[r][p] += scores[(long)t * LANES + i + r] * value;
            }
        for (int r = 0; r < ROWS && i + r < n; r++)
            for (int p = 0; p < PARTS; p++)
                store(out + (i + r) * out_stride + p * LANES, mixed[r][p] / total[i + r]);
    }
}

/* qkv (B, n, 3 N D); caches (B, N, max_length, D), written from positions[b] on; out (B, n, N D).
   -1, or the first b whose new rows do not fit; then nothing has been written. */
int decode_attention(const element *qkv, element *k_cache, element *v_cache, element *out, const int32_t *positions,
                     int batch, int n, int heads, int max_length, int num_context, int is_block_causal,
                     int num_threads) {
    for (int b = 0; b < batch; b++)
        if (positions[b] < 0 || positions[b] > max_length - n) return b;
    long width = (long)heads * HEAD_SIZE, stride = 3 * width;
#pragma omp parallel for num_threads(num_threads) schedule(static)
    for (int problem = 0; problem < batch * heads; problem++) {
        int entry = problem / heads, head = problem % heads;
        int position = positions[entry], length = position + n;
        int limits[n];
        for (int i = 0; i < n; i++)
            limits[i] = i >= num_context ? length : position + (is_block_causal ? num_context : i + 1);
        const element *rows = qkv + entry * n * stride + head * HEAD_SIZE;
        element *keys = k_cache + (long)problem * max_length * HEAD_SIZE;
        element *values = v_cache + (long)problem * max_length * HEAD_SIZE;
        element *to = out + entry * n * width + head * HEAD_SIZE;
        float scores[LANES * (length + LANES + KEYS)];
        for (int i = 0; i < n; i++) {
            memcpy(keys + (long)(position + i) * HEAD_SIZE, rows + i * stride + width, HEAD_SIZE * sizeof(element));
            memcpy(values + (long)(position + i) * HEAD_SIZE, rows + i * stride + 2 * width,
                   HEAD_SIZE * sizeof(element));
        }
        for (int i = 0; i < n;) {
            const element *q = rows + i * stride;
            int left = n - i;
            if (left == 1)
                few_rows(q, stride, keys, values, limits + i, 1, length, scores, to + i * width, width);
            else if (left == 2)
                few_rows(q, stride, keys, values, limits + i, 2, length, scores, to + i * width, width);
            else
                many_rows(q, stride, keys, values, limits + i, left < LANES ? left : LANES, position, scores,
                          to + i * width, width);
            i += left <= FEW ? left : LANES;
        }
    }
    return -1;
}
