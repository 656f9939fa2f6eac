/* Products with matrices as they are stored. The products of a row of x and a row of a matrix are added up in the same
 * order whatever is computed beside them: so the bits of a row do not depend on its neighbours. */

/* A loop that is unrolled, so that what it indexes stays in registers. */
#define EACH(n, count) _Pragma("GCC unroll 8") for (int n = 0; n < (count); n++)

/* A row of a matrix. */
typedef struct { const char *values, *scales, *biases; } Row;

/* Vector i of PAD values from column n on. Where values share a byte or a word, the even columns come first. */
INLINE vec unpacked(const Product *p, Kind kind, const Row *row, ptrdiff_t n, int i) {
    const int is_split = kind == BFLOAT16 || kind == MXFP4 || kind == AFFINE4, shift = i < 16 / W ? 0 : 4;
    const int bytes = kind <= BFLOAT16 ? 4 * W : kind == FLOAT16 ? 2 * W : W;
    const char *from = row->values + n * bits_of[kind] / 8 + (is_split ? i % (16 / W) : i) * bytes;
    if (kind == FLOAT32) return load(from);
    if (kind == BFLOAT16) {
        ints both = (ints)load(from);
        return (vec)(shift ? both & -0x10000 : both << 16);
    }
    if (kind == MXFP4) return look_up(fp4[(uint8_t)row->scales[n / PAD]], from_bytes(from) >> shift);
    if (kind == FLOAT16) return from_float16(from);
    float scale = value_at(p->scale_kind, row->scales, n / p->group);
    float bias = value_at(p->scale_kind, row->biases, n / p->group);
    ints codes = kind == AFFINE8 ? from_bytes(from) : from_bytes(from) >> shift & 15;
    return __builtin_convertvector(codes, vec) * scale + bias;
}

/* Fetches what is read a little later, because by itself the processor is too late. */
INLINE void fetch(Kind kind, const Row *row, ptrdiff_t n) {
    const char *from = row->values + n * bits_of[kind] / 8;
    if (n * bits_of[kind] / 8 % 64 == 0 && kind != FLOAT32) __builtin_prefetch(from + AHEAD);
    if (kind >= MXFP4 && n % 1024 == 0) __builtin_prefetch(row->scales + n / PAD + AHEAD / 16);
}

/* Adds to totals[r][m] the product of columns start .. end - 1 of R rows of x and M rows of a matrix. */
INLINE void add_products(const Product *p, Kind kind, int R, int M, const Row rows[], const float *const x[],
                         ptrdiff_t start, ptrdiff_t end, vec (*totals)[8]) {
    vec sums[8][8];
    EACH(r, R) EACH(m, M) sums[r][m] = totals[r][m];
    for (ptrdiff_t n = start; n < end; n += PAD) {
        EACH(m, M) fetch(kind, rows + m, n);
#pragma GCC unroll 4
        for (int i = 0; i < PAD / W; i++) {
            vec values[8];
            EACH(m, M) values[m] = unpacked(p, kind, rows + m, n, i);
            EACH(r, R) {
                vec factor = load(x[r] + n + i * W);
#if defined(AVX512)
                __asm__("" : "+v"(factor)); /* it is loaded once */
#endif
                EACH(m, M) sums[r][m] += values[m] * factor;
            }
        }
    }
    EACH(r, R) EACH(m, M) totals[r][m] = sums[r][m];
}

/* The row of a matrix for sum n of a job. With SwiGLU each two sums are gate and up of an output. */
INLINE ptrdiff_t row_of(const Product *p, ptrdiff_t output, ptrdiff_t n) {
    return !p->swiglu ? output + n : p->alternates ? 2 * output + n : n % 2 * p->outputs + output + n / 2;
}

/* Unpacks columns start .. end - 1 of a row; behind its last column are zeros. */
INLINE void unpack(const Product *p, Kind kind, Row row, ptrdiff_t start, ptrdiff_t end, float *to) {
    for (ptrdiff_t n = start; n < end; n += PAD, to += PAD) {
        char tail[4 * PAD] = {0};
        fetch(kind, &row, n);
        if (n + PAD > p->inputs) {
            memcpy(tail, row.values + n * bits_of[kind] / 8, (size_t)((p->inputs - n) * bits_of[kind] / 8));
            row.values = tail - n * bits_of[kind] / 8;
        }
        EACH(i, PAD / W) store(to + i * W, unpacked(p, kind, &row, n, i));
    }
}

/* A job: sums[r][n] is the product of row r of x, one of `count`, and row n of `rows` of a matrix. */
typedef struct { ptrdiff_t first, output, rows; int count; const float *x[X_ROWS]; float sums[X_ROWS][SUMS]; } Job;

/* Computes the sums of a job with R rows of x, from the values of a matrix as they are read. R is 0 for many rows of x:
 * then a few rows of the matrix are unpacked first. The matrix is read at M places at once, and at each of them on and
 * on, as processors expect it. */
INLINE void find_sums(const Product *p, Kind kind, int R, Job *job) {
    const int M = R == 0 ? SUM_VECTORS / 4 : SUM_VECTORS / R < 4 ? SUM_VECTORS / R : 4;
    const ptrdiff_t each = (job->rows + M - 1) / M;
    _Alignas(64) float block[8][STRIDE];
    vec totals[X_ROWS][8];
    Row rows[8], blocks[8];
    for (ptrdiff_t n = 0; n < each; n++) {
        memset(totals, 0, sizeof *totals * (size_t)job->count);
        for (int m = 0; m < M; m++) {
            ptrdiff_t sum = m * each + n < job->rows ? m * each + n : job->rows - 1;
            ptrdiff_t row = job->first + row_of(p, job->output, sum), scale = row * p->scale_row;
            rows[m] = (Row){p->values + row * p->value_row, p->scales + scale, p->biases + scale};
        }
        if (R > 0) add_products(p, kind, R, M, rows, job->x, 0, p->padded, totals);
        for (ptrdiff_t start = 0, end; R == 0 && start < p->padded; start = end) {
            end = p->padded - start < BLOCK ? p->padded : start + BLOCK;
            for (int m = 0; m < M; m++) blocks[m].values = (const char *)(block[m] - start);
#define UNPACK(kind) case kind: for (int m = 0; m < M; m++) unpack(p, kind, rows[m], start, end, block[m]); break;
            switch (p->kind) {
                UNPACK(FLOAT32) UNPACK(BFLOAT16) UNPACK(FLOAT16) UNPACK(MXFP4) UNPACK(AFFINE4) UNPACK(AFFINE8)
            }
#define ADD(R) case R: add_products(p, FLOAT32, R, M, blocks, job->x + r, start, end, totals + r); break;
            for (int r = 0; r < job->count; r += 4)
                switch (job->count - r < 4 ? job->count - r : 4) { ADD(1) ADD(2) ADD(3) ADD(4) }
        }
        for (int r = 0; r < (R > 0 ? R : job->count); r++) EACH(m, M) job->sums[r][m * each + n] = sum_of(totals[r][m]);
    }
}

/* gate * sigmoid(alpha * gate) * (up + 1), after both are clamped, the gate only from above. Writes `count` values. */
INLINE void activate(const Product *p, const float *sums, ptrdiff_t count, float *to) {
    float gates[SUMS / 2], ups[SUMS / 2];
    vec limit = all(p->limit);
    for (int n = 0; n < SUMS / 2; n++) gates[n] = n < count ? sums[2 * n] : 0, ups[n] = n < count ? sums[2 * n + 1] : 0;
    for (int n = 0; n < count; n += W) {
        vec gate = smaller(load(gates + n), limit);
        vec up = smaller(larger(load(ups + n), -limit), limit);
        store(ups + n, gate / (power_of_2(gate * (p->alpha * -1.44269504f)) + 1.0f) * (up + 1.0f));
    }
    memcpy(to, ups, 4 * (size_t)count);
}

HERE static void product_job(const void *context, int number, int thread) {
    const Product *p = context;
    const struct Piece piece = p->pieces[number / p->columns];
    Job job; /* its sums are not to be cleared */
    job.first = piece.expert * p->rows, job.output = number % p->columns * p->height, job.count = piece.count;
    const ptrdiff_t outputs = p->outputs - job.output < p->height ? p->outputs - job.output : p->height;
    job.rows = outputs * (1 + p->swiglu);
    for (int r = 0; r < job.count; r++)
        job.x[r] = p->ordered + p->order[piece.first + r] / (p->pairs / p->x_rows) * p->padded;
    int is_direct = p->padded == p->inputs && job.count <= X_TOGETHER;
#define CASE(kind, R) case 16 * kind + R: find_sums(p, kind, R, &job); break;
#define TO_4(kind) CASE(kind, 1) CASE(kind, 2) CASE(kind, 3) CASE(kind, 4)
#define TO_8(kind) TO_4(kind) CASE(kind, 5) CASE(kind, 6) CASE(kind, 7) CASE(kind, 8)
    switch (is_direct ? 16 * p->kind + job.count : 0) {
        TO_8(BFLOAT16) TO_8(MXFP4) TO_4(AFFINE4) TO_4(AFFINE8)
    default: find_sums(p, FLOAT32, 0, &job);
    }
    for (int r = 0; r < job.count; r++) {
        float *out = p->out + p->order[piece.first + r] * p->outputs + job.output, *sums = job.sums[r];
        for (ptrdiff_t n = 0; n < job.rows && p->bias; n++) sums[n] += p->bias[job.first + row_of(p, job.output, n)];
        if (p->swiglu) activate(p, sums, outputs, out);
        else memcpy(out, sums, 4 * (size_t)outputs);
    }
}
