/* What is computed with vectors of W floats. */

INLINE vec load(const void *from) { return *(const anywhere *)from; }
INLINE void store(float *to, vec v) { *(anywhere *)to = v; }
INLINE vec all(float value) { return value - (vec){0}; }
INLINE vec choose(ints yes, vec a, vec b) { return (vec)((yes & (ints)a) | (~yes & (ints)b)); }
/* Of each two lanes the larger, or the smaller one; what is not a number in a stays so. */
INLINE vec larger(vec a, vec b) { return choose(a < b, b, a); }
INLINE vec smaller(vec a, vec b) { return choose(a > b, b, a); }

INLINE float sum_of(vec v) {
#if defined(AVX512)
    return _mm512_reduce_add_ps((__m512)v);
#endif
    for (int half = W / 2; half > 0; half /= 2)
        for (int n = 0; n < half; n++) v[n] += v[n + half];
    return v[0];
}

INLINE float largest_of(vec v) {
#if defined(AVX512)
    return _mm512_reduce_max_ps((__m512)v);
#endif
    for (int n = 1; n < W; n++) v[0] = v[n] > v[0] ? v[n] : v[0];
    return v[0];
}

INLINE ints from_bytes(const void *from) {
#if defined(AVX512)
    return (ints)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)from));
#elif defined(AVX2)
    return (ints)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)from));
#endif
    return __builtin_convertvector(*(const bytes *)from, ints);
}

INLINE vec from_float16(const void *from) { /* as `value_at` */
    ints h = __builtin_convertvector(*(const halves *)from, ints), exponent = h & 0x7c00;
    vec value = (vec)((h & 0x7fff) << 13) * 0x1p112f;
    return (vec)((ints)choose(exponent == 0x7c00, (vec)(0x7f800000 | (h & 0x3ff) << 13), value) | (h & 0x8000) << 16);
}

/* Entries of a row of `fp4`, for the low 4 bits of each lane. */
INLINE vec look_up(const float *table, ints codes) {
#if defined(AVX512)
    return (vec)_mm512_permutexvar_ps((__m512i)codes, (__m512)load(table));
#elif defined(AVX2)
    return (vec)((ints)_mm256_permutevar8x32_ps((__m256)load(table), (__m256i)codes) ^ (codes << 28 & INT32_MIN));
#elif defined(NEON)
    uint8x16x4_t floats;
    memcpy(&floats, table, sizeof floats);
    return (vec)vqtbl4q_u8(floats, (uint8x16_t)((codes & 15) * 0x04040404 + 0x03020100));
#else
    vec found;
    for (int n = 0; n < W; n++) found[n] = table[codes[n] & 15];
    return found;
#endif
}

/* 2 to the power of x, to about 1e-7 of the result, and 0 below -126. It is 2^n * 2^f, with n the integer nearest to x;
 * the factors are those of the polynomial of degree 6 that is closest to 2^f from -1/2 to 1/2, relative to it. */
INLINE vec power_of_2(vec x) {
    ints tiny = x < -126.0f;
    x = smaller(larger(x, all(-126.0f)), all(127.0f));
    vec shifted = x + 12582912.0f; /* 1.5 * 2^23: the last bits are those of n */
    vec f = x - (shifted - 12582912.0f);
    ints exponent = (((ints)shifted - 0x4b400000) << 23) & (x == x); /* what is not a number stays so */
    vec p = ((f * 1.5365794e-4f + 1.3399429e-3f) * f + 9.6183904e-3f) * f + 5.5503305e-2f;
    p = ((p * f + 2.4022648e-1f) * f + 6.9314718e-1f) * f + 1.0f;
    return (vec)(~tiny & ((ints)p + exponent));
}
