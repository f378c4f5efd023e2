/* A token a row: the code with the largest logits + Gumbel noise, by the Philox 4x32-10 of philox.py.

   LANES counters run side by side; each gives the four numbers of four neighbouring codes. */

#include "vectors.h"

#define ROUNDS 10
#define CODES (4 * LANES)

typedef uint32_t words __attribute__((vector_size(4 * LANES), aligned(4)));

/* The words of LANES counters (first + lane, c1, c2, c3): word w of lane i goes to out[4 i + w]. The compiler makes
   vectors of these loops, with the widening products that its processor has. */
static inline void philox(uint64_t key, uint32_t first, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t *out) {
    uint32_t counter[4][LANES];
    for (int i = 0; i < LANES; i++)
        counter[0][i] = first + i, counter[1][i] = c1, counter[2][i] = c2, counter[3][i] = c3;
    uint32_t key_low = (uint32_t)key, key_high = (uint32_t)(key >> 32);
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < LANES; i++) {
            uint64_t a = counter[0][i] * (uint64_t)0xD2511F53u, b = counter[2][i] * (uint64_t)0xCD9E8D57u;
            counter[0][i] = (uint32_t)(b >> 32) ^ counter[1][i] ^ key_low;
            counter[2][i] = (uint32_t)(a >> 32) ^ counter[3][i] ^ key_high;
            counter[1][i] = (uint32_t)b;
            counter[3][i] = (uint32_t)a;
        }
        key_low += 0x9E3779B9u;
        key_high += 0xBB67AE85u;
    }
    for (int i = 0; i < LANES; i++)
        for (int w = 0; w < 4; w++) out[4 * i + w] = counter[w][i];
}

/* logits (games * rows_a_game, codes), multiplied by `scale` -> tokens, one a row, the first of equals. */
void sample_tokens(const float *logits, const uint64_t *seeds, const uint64_t *steps, int64_t *tokens, long num_games,
                   long rows_a_game, int num_codes, int stream, int place, float scale, int num_threads) {
#pragma omp parallel for num_threads(num_threads) schedule(static)
    for (long row = 0; row < num_games * rows_a_game; row++) {
        const float *from = logits + row * num_codes;
        uint64_t seed = seeds[row / rows_a_game], step = steps[row / rows_a_game];
        uint32_t step_low = (uint32_t)step, step_high = (uint32_t)(step >> 32 & 0xffff) + ((uint32_t)stream << 16);
        uint32_t place_of_row = (uint32_t)(place + row % rows_a_game);
        float best = -INFINITY;
        int token = 0;
        for (int code = 0; code < num_codes; code += CODES) {
            uint32_t bits[CODES];
            float sums[CODES];
            philox(seed, code / 4, place_of_row, step_low, step_high, bits);
            int num = num_codes - code < CODES ? num_codes - code : CODES;
            for (int i = 0; i < CODES; i += LANES) {
                ivec upper = (ivec)(*(words *)(bits + i) >> 9);
                vec uniform = (__builtin_convertvector(upper, vec) + 0.5f) * 0x1p-23f;
                store_float(sums + i, -logarithm(-logarithm(uniform)));
            }
            for (int i = 0; i < num; i++) sums[i] += from[code + i] * scale;
            for (int i = 0; i < num; i++)
                if (sums[i] > best) best = sums[i], token = code + i;
        }
        tokens[row] = token;
    }
}
