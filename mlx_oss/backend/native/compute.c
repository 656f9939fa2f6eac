/* Prepares what is computed, divides it into jobs, and chooses whose jobs run. */
#include "kernels.h"

static const Level *const levels[] = {
#if defined(__x86_64__)
    &avx512, &avx2,
#elif defined(__aarch64__)
    &neon,
#endif
    &plain,
};
static const Level *_Atomic chosen;
_Alignas(64) float fp4[256][16];

const char *use_level(int number) {
    if (number < 0 || number > 9) return NULL;
#if defined(__x86_64__)
    int has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    number += !has_avx2 ? 2 : !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl") ||
                              !__builtin_cpu_supports("avx512dq");
#endif
    if (number >= (int)(sizeof levels / sizeof *levels)) return NULL;
    static const float values[] = {0, .5f, 1, 1.5f, 2, 3, 4, 6, -0.f, -.5f, -1, -1.5f, -2, -3, -4, -6};
    for (uint32_t n = 0; n < 4096 && !chosen; n++)
        fp4[n / 16][n % 16] = values[n % 16] * as_float(n < 16 ? 0x400000 : n / 16 << 23); /* once */
    chosen = levels[number];
    return levels[number]->name;
}

/* Row `job` of x, padded with zeros, in the order of `unpacked`: of each PAD columns the even ones may come first. */
static void prepare(const void *context, int job, int thread) {
    const Product *p = context;
    const int is_split = p->kind == BFLOAT16 || p->kind == MXFP4 || p->kind == AFFINE4;
    for (ptrdiff_t start = 0; start < p->padded; start += PAD) {
        float part[PAD] = {0}, *to = p->ordered + job * p->padded + start;
        memcpy(part, p->x + job * p->inputs + start, 4 * (size_t)(p->inputs - start < PAD ? p->inputs - start : PAD));
        for (int n = 0; n < PAD / 2 && is_split; n++) to[n] = part[2 * n], to[PAD / 2 + n] = part[2 * n + 1];
        if (!is_split) memcpy(to, part, sizeof part);
    }
}

int compute_product(Product *p) {
    p->padded = (p->inputs + PAD - 1) / PAD * PAD;
    if (posix_memalign((void **)&p->ordered, 64, 4 * (size_t)(p->x_rows * p->padded))) p->ordered = NULL;
    p->order = malloc(4 * (size_t)p->pairs);
    p->pieces = malloc(sizeof *p->pieces * (size_t)(p->matrices + p->pairs / X_ROWS));
    int32_t *ends = calloc((size_t)p->matrices + 1, 4); /* the places in `order` behind the pairs of each expert */
    int pieces = 0, most = threads(), has_memory = p->order && p->pieces && ends && p->ordered;
    if (has_memory) {
        for (ptrdiff_t n = 0; n < p->pairs; n++) ends[1 + (p->experts ? p->experts[n] : 0)]++;
        for (ptrdiff_t e = 0; e < p->matrices; e++) ends[e + 1] += ends[e];
        for (ptrdiff_t n = 0; n < p->pairs; n++) p->order[ends[p->experts ? p->experts[n] : 0]++] = (int32_t)n;
        for (int32_t e = 0, first = 0; e < p->matrices; first = ends[e++])
            for (; first < ends[e]; first += X_ROWS)
                p->pieces[pieces++] = (struct Piece){e, first, ends[e] - first < X_ROWS ? ends[e] - first : X_ROWS};
        for (p->height = SUMS / (1 + p->swiglu); p->height > 12; p->height /= 2) /* some jobs for each thread */
            if (pieces * (p->outputs / p->height) >= 16 * most) break;
        p->columns = (int)((p->outputs + p->height - 1) / p->height);
        run_jobs(prepare, p, (int)p->x_rows, p->x_rows < 8 ? 1 : most);
        run_jobs(chosen->product_job, p, pieces * p->columns, most);
    }
    free(p->order), free(p->pieces), free(ends), free(p->ordered);
    return has_memory;
}

int compute_attention(Attention *a) {
    int most = threads(), heads = a->H / a->K; /* query heads of each kv head */
    a->queries = heads < 128 ? 128 / heads : 1;
    size_t rows = (size_t)(a->queries * heads + 3), width = (size_t)(a->D + 63); /* padded to any vectors */
    a->memory_each = rows * (2 * width + 64 + 2) + 2 * width * 64;
    if ((a->memory = malloc(4 * a->memory_each * (size_t)most)) == NULL) return 0;
    run_jobs(chosen->attention_job, a, a->B * a->K * ((a->L + a->queries - 1) / a->queries), most);
    free(a->memory);
    return 1;
}
