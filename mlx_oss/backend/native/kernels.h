/* What the parts of the library share: what a product and attention consist of, and what each part can do. */
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* How numbers are stored. The last three kinds are packed in groups that share a scale, affine ones also a bias. */
typedef enum { FLOAT32, BFLOAT16, FLOAT16, MXFP4, AFFINE4, AFFINE8 } Kind;
static const int bits_of[] = {32, 16, 16, 4, 4, 8};

/* Values are unpacked PAD at a time. A job computes up to SUMS sums, which 3, 4 and 6 divide, for each of up to X_ROWS
 * rows of x. For many of them it unpacks BLOCK columns of a few rows of a matrix, which fit into the first cache.
 * STRIDE is not a power of 2, because rows at such distances would share a few places of the cache. Memory is fetched
 * AHEAD bytes before it is read. */
enum { PAD = 32, SUMS = 192, X_ROWS = 64, BLOCK = 1024, STRIDE = BLOCK + 16, AHEAD = 2048 };

/* Products of rows of x with the matrices of experts. A pair is a row and an expert, and each row belongs to
 * pairs / x_rows consecutive pairs. A matrix has one row for each output, or two with SwiGLU: gate and up. */
typedef struct {
    Kind kind, scale_kind;
    const char *values, *scales, *biases; /* of all matrices, row by row */
    ptrdiff_t value_row, scale_row;       /* bytes */
    ptrdiff_t group, matrices, rows, inputs, padded, outputs, x_rows, pairs;
    const float *x;          /* (x_rows, inputs) */
    const uint32_t *experts; /* (pairs,), or NULL for one matrix */
    const float *bias;       /* (matrices, rows), or NULL */
    float *out;              /* (pairs, outputs) */
    int swiglu, alternates;  /* with `alternates` even rows are gate, otherwise the first half is */
    float alpha, limit;
    /* Prepared for the jobs: */
    float *ordered; /* (x_rows, padded): x as the jobs read it */
    int32_t *order; /* the pairs sorted by expert */
    struct Piece { int32_t expert, first, count; } *pieces; /* places in `order` */
    int height, columns; /* outputs of a job, and how many jobs there are for a piece */
} Product;

/* Attention of L queries, the last of S positions. A query sees `window` positions, its own included. */
typedef struct {
    const float *q, *k, *v, *sinks;         /* (B, H, L, D), (B, K, S, D), (B, K, S, D), (H,) */
    ptrdiff_t q_row[3], k_row[3], v_row[3]; /* distances along the first three dimensions */
    float *out;                             /* (B, L, H, D) */
    int B, H, K, L, S, D, window, queries;  /* `queries` of a job */
    float scale, *memory;
    size_t memory_each; /* floats of `memory` for each thread to work in */
} Attention;

extern float fp4[256][16]; /* the values of MXFP4 with each scale, as MLX reads them */

/* Returns 0 if there is not enough memory. */
int compute_product(Product *p);
int compute_attention(Attention *a);

/* Chooses among the vectors that this machine has, 0 for the fastest. Returns NULL if there are not so many. */
const char *use_level(int number);

/* Runs jobs 0 .. count - 1 in any order, on threads 0 .. most - 1, and returns when they are done. No two jobs run with
 * the same `thread` at the same time. If others are running at this time, the caller computes its own alone. */
typedef void Task(const void *context, int job, int thread);
void run_jobs(Task *task, const void *context, int count, int most);
void set_threads(int count);
int threads(void);

/* The jobs, compiled for the vectors of a kind of processor. */
typedef struct { const char *name; Task *product_job, *attention_job; } Level;
extern const Level avx512, avx2, neon, plain;

static inline float as_float(uint32_t bits) { return (union { uint32_t bits; float value; }){bits}.value; }

static inline float value_at(Kind kind, const void *from, ptrdiff_t index) {
    if (kind == FLOAT32) return ((const float *)from)[index];
    uint32_t half = ((const uint16_t *)from)[index];
    if (kind == BFLOAT16) return as_float(half << 16);
    float value = as_float((half & 0x7fff) << 13) * 0x1p112f; /* right for tiny numbers too */
    return (half & 0x8000 ? -1 : 1) * ((half & 0x7c00) == 0x7c00 ? half & 0x3ff ? NAN : INFINITY : value);
}
