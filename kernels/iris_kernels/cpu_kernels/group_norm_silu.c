/* GroupNorm, then SiLU, of channels-last maps (batch, pixels, channels): forward and backward.

   LANES neighbouring channels of a picture are a problem of their own; they must hold whole groups. Statistics are of
   differences to the first pixel, so a mean far from zero costs no digits, and are summed in runs of RUN pixels. */

#include "vectors.h"

#define RUN 64

const int lanes = LANES;

/* Sums over each group's lanes, in every lane of the group. */
static inline vec over_groups(vec a, int size) {
    for (int first = 0; first < LANES; first += size) {
        float total = 0;
        for (int i = 0; i < size; i++) total += a[first + i];
        for (int i = 0; i < size; i++) a[first + i] = total;
    }
    return a;
}

static inline vec root(vec a) {
    for (int i = 0; i < LANES; i++) a[i] = sqrtf(a[i]);
    return a;
}

static inline vec sigmoid(vec a) { return 1.0f / (1.0f + exponential(-a)); }

static inline vec silu_slope(vec a) {
    vec gate = sigmoid(a);
    return gate * (1.0f + a * (1.0f - gate));
}

/* statistics: (batch, 2, channels) float, mean and 1 / deviation of each channel's group. */
void group_norm_silu(const element *x, const float *weight, const float *bias, element *out, float *statistics,
                     int batch, int pixels, int channels, int group_size, float eps, int num_threads) {
    int blocks = channels / LANES;
#pragma omp parallel for num_threads(num_threads) schedule(static)
    for (int problem = 0; problem < batch * blocks; problem++) {
        int entry = problem / blocks, block = problem % blocks * LANES;
        const element *from = x + (long)entry * pixels * channels + block;
        element *to = out + (long)entry * pixels * channels + block;
        vec first = load(from), total = {0}, squares = {0};
        for (int start = 0; start < pixels; start += RUN) {
            int stop = start + RUN < pixels ? start + RUN : pixels;
            vec run = {0}, run_squares = {0};
            for (int i = start; i < stop; i++) {
                vec value = load(from + (long)i * channels) - first;
                run += value;
                run_squares += value * value;
            }
            total += run;
            squares += run_squares;
        }
        /* Chan's rule: the channels' own means and squared deviations to the group's. */
        float count = (float)pixels * group_size;
        vec own_mean = total / (float)pixels, deviations = squares - total * own_mean;
        own_mean += first;
        vec mean = over_groups(own_mean, group_size) / (float)group_size;
        vec apart = own_mean - mean;
        vec variance = over_groups(deviations + apart * apart * (float)pixels, group_size) / count;
        vec rstd = 1.0f / root(variance + eps);
        store_float(statistics + (long)entry * 2 * channels + block, mean);
        store_float(statistics + ((long)entry * 2 + 1) * channels + block, rstd);
        vec scale = load_float(weight + block) * rstd, shift = load_float(bias + block) - mean * scale;
        for (int i = 0; i < pixels; i++) {
            vec normed = load(from + (long)i * channels) * scale + shift;
            store(to + (long)i * channels, normed * sigmoid(normed));
        }
    }
}

/* grad_x like x; sums: (batch, 2, channels) float, each picture's part of the gradients of weight and bias. */
void group_norm_silu_backward(const element *grad_out, const element *x, const float *weight, const float *bias,
                              const float *statistics, element *grad_x, float *sums, int batch, int pixels,
                              int channels, int group_size, int num_threads) {
    int blocks = channels / LANES;
#pragma omp parallel for num_threads(num_threads) schedule(static)
    for (int problem = 0; problem < batch * blocks; problem++) {
        int entry = problem / blocks, block = problem % blocks * LANES;
        long offset = (long)entry * pixels * channels + block, row = (long)entry * 2 * channels + block;
        vec mean = load_float(statistics + row), rstd = load_float(statistics + row + channels);
        vec scale = load_float(weight + block), shift = load_float(bias + block);
        vec total = {0}, projected = {0};
        for (int start = 0; start < pixels; start += RUN) {
            int stop = start + RUN < pixels ? start + RUN : pixels;
            vec run = {0}, run_projected = {0};
            for (int i = start; i < stop; i++) {
                vec unit = (load(x + offset + (long)i * channels) - mean) * rstd;
                vec slope = load(grad_out + offset + (long)i * channels) * silu_slope(unit * scale + shift);
                run += slope;
                run_projected += slope * unit;
            }
            total += run;
            projected += run_projected;
        }
        store_float(sums + row, projected);
        store_float(sums + row + channels, total);
        float count = (float)pixels * group_size;
        vec mean_slope = over_groups(total * scale, group_size) / count;
        vec mean_projected = over_groups(projected * scale, group_size) / count;
        for (int i = 0; i < pixels; i++) {
            vec unit = (load(x + offset + (long)i * channels) - mean) * rstd;
            vec slope = load(grad_out + offset + (long)i * channels) * silu_slope(unit * scale + shift);
            store(grad_x + offset + (long)i * channels,
                  (slope * scale - mean_slope - unit * mean_projected) * rstd);
        }
    }
}
