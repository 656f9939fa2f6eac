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
static const Level *chosen;

const char *use_level(int number) {
    if (number < 0) return NULL;
#if defined(__x86_64__)
    int has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    number += !has_avx2 ? 2 : !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl") ||
                              !__builtin_cpu_supports("avx512dq");
#endif
    if (number >= (int)(sizeof levels / sizeof *levels)) return NULL;
    chosen = levels[number];
    return chosen->name;
}

enum { X_ROWS = 8, ATTENTION_ROWS = 128 }; /* of a job */

static void prepare(const void *context, int job, int thread) {
    const Product *p = context;
    (void)thread;
    for (ptrdiff_t row = job * X_ROWS; row < (job + 1) * X_ROWS && row < p->x_rows; row++) {
        const char *from = p->x + row * p->inputs * (p->x_kind == FLOAT32 ? 4 : 2);
        float *to = p->floats + row * p->padded;
        memset(to + p->inputs, 0, 4 * (size_t)(p->padded - p->inputs));
        if (p->kind == MXFP4 || p->kind == AFFINE4)
            for (ptrdiff_t n = 0; n < p->inputs; n += PAD)
                for (int i = 0; i < PAD; i++) to[n + i % 2 * (PAD / 2) + i / 2] = value_at(p->x_kind, from, n + i);
        else
            for (ptrdiff_t n = 0; n < p->inputs; n++) to[n] = value_at(p->x_kind, from, n);
    }
}

/* Counts the jobs, and lists them where there is memory for it. `ends` are the places in `order` behind each expert. */
static int divide(Product *p, const int32_t *ends) {
    int number = 0;
    for (ptrdiff_t e = 0, first = 0; e < p->matrices; first = ends[e++])
        for (ptrdiff_t output = 0; output < p->outputs; output += p->height)
            for (ptrdiff_t start = first; start < ends[e]; start += INPUTS, number++)
                if (p->pieces) {
                    ptrdiff_t count = ends[e] - start < INPUTS ? ends[e] - start : INPUTS;
                    p->pieces[number] = (struct Piece){(int)e, (int)start, (int)count, (int)output};
                }
    return number;
}

int compute_product(Product *p) {
    p->padded = (p->inputs + PAD - 1) / PAD * PAD;
    p->floats = malloc(4 * (size_t)(p->x_rows * p->padded));
    p->order = malloc(4 * (size_t)p->pairs);
    int32_t *ends = calloc((size_t)p->matrices + 1, 4);
    int jobs = 0, has_memory = p->floats && p->order && ends;
    if (has_memory) {
        for (ptrdiff_t n = 0; n < p->pairs; n++) ends[1 + (p->experts ? p->experts[n] : 0)]++;
        for (ptrdiff_t e = 0; e < p->matrices; e++) ends[e + 1] += ends[e];
        for (ptrdiff_t n = 0; n < p->pairs; n++) p->order[ends[p->experts ? p->experts[n] : 0]++] = (int32_t)n;
        p->height = OUTPUTS / (1 + p->swiglu);
        while ((jobs = divide(p, ends)) < 4 * threads() && p->height > 8) p->height /= 2; /* some for each thread */
        has_memory = (p->pieces = malloc(sizeof *p->pieces * (size_t)jobs)) != NULL;
    }
    if (has_memory) {
        divide(p, ends);
        run_jobs(prepare, p, (int)((p->x_rows + X_ROWS - 1) / X_ROWS));
        run_jobs(chosen->product_job, p, jobs);
    }
    free(p->floats), free(p->order), free(ends), free(p->pieces);
    return has_memory;
}

int compute_attention(Attention *a) {
    int heads = a->H / a->K; /* query heads of each kv head */
    a->queries = ATTENTION_ROWS > heads ? ATTENTION_ROWS / heads : 1;
    size_t rows = (size_t)(a->queries * heads + 3), width = (size_t)(a->D + 63); /* padded to any vectors */
    a->memory_each = rows * (2 * width + 64 + 2) + 2 * width * 64;
    if ((a->memory = malloc(4 * a->memory_each * (size_t)threads())) == NULL) return 0;
    run_jobs(chosen->attention_job, a, a->B * a->K * ((a->L + a->queries - 1) / a->queries));
    free(a->memory);
    return 1;
}
