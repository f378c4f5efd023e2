/* Vectors of as many numbers as the processor's own hold, in GNU C, and elements of float or bfloat16.

   Wider ones would be taken apart number by number: gcc does so with comparisons and shuffles.

   ELEMENT_IS_BFLOAT16 chooses the type of the tensors; all arithmetic is in float. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4)));

#if ELEMENT_IS_BFLOAT16

typedef uint16_t element;
typedef uint16_t half_vec __attribute__((vector_size(2 * LANES), aligned(2)));

static inline vec load(const element *from) {
    return (vec)(__builtin_convertvector(*(const half_vec *)from, ivec) << 16);
}

/* Rounds to the nearest, ties to even. */
static inline void store(element *to, vec value) {
    ivec bits = (ivec)value;
    bits += 0x7fff + (bits >> 16 & 1);
    *(half_vec *)to = __builtin_convertvector(bits >> 16, half_vec);
}

#else

typedef float element;

static inline vec load(const element *from) { return *(const vec *)from; }
static inline void store(element *to, vec value) { *(vec *)to = value; }

#endif

static inline vec load_float(const float *from) { return *(const vec *)from; }
static inline void store_float(float *to, vec value) { *(vec *)to = value; }
static inline vec all(float value) { return value - (vec){0}; }
static inline vec choose(ivec where, vec a, vec b) { return (vec)((where & (ivec)a) | (~where & (ivec)b)); }
static inline vec larger(vec a, vec b) { return choose(a > b, a, b); }

static inline float sum(vec a) {
    float total = 0;
    for (int i = 0; i < LANES; i++) total += a[i];
    return total;
}

/* e^x by 2^k and a polynomial on [-ln 2 / 2, ln 2 / 2] (Cephes), to 2e-7; x is held within [-87, 88]. */
static inline vec exponential(vec x) {
    x = larger(x, all(-87.0f));
    x = choose(x < 88.0f, x, all(88.0f));
    const float rounder = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    vec k = (x * 1.44269504f + rounder) - rounder;
    vec r = x - k * 0.693359375f + k * 2.12194440e-4f;
    vec p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    return p * (vec)((__builtin_convertvector(k, ivec) + 127) << 23);
}

/* Natural logarithm of positive normal x, to 2e-7: x = 2^k m with m in [sqrt(1/2), sqrt(2)), then a polynomial (Cephes). */
static inline vec logarithm(vec x) {
    ivec bits = (ivec)x - 0x3f3504f3; /* sqrt(1/2) */
    vec k = __builtin_convertvector(bits >> 23, vec);
    vec r = (vec)((bits & 0x7fffff) + 0x3f3504f3) - 1.0f;
    vec p = all(7.0376836292e-2f);
    p = p * r - 1.1514610310e-1f;
    p = p * r + 1.1676998740e-1f;
    p = p * r - 1.2420140846e-1f;
    p = p * r + 1.4249322787e-1f;
    p = p * r - 1.6668057665e-1f;
    p = p * r + 2.0000714765e-1f;
    p = p * r - 2.4999993993e-1f;
    p = p * r + 3.3333331174e-1f;
    vec square = r * r;
    return (r * square * p - k * 2.12194440e-4f - 0.5f * square) + r + k * 0.693359375f;
}
