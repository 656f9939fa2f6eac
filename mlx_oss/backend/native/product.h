/* Products with matrices as they are stored. The products of a row of x and a row of a matrix are added up in the same
 * order whatever is computed beside them: so the bits of a row do not depend on its neighbours. */

/* Unpacks PAD values of 4 bits. Of each 16, which are a word, value 8 comes behind value 0, then 1, 9, 2, 10, ... */
INLINE void unpack_codes(const uint8_t *from, const vec table[16 / W], float *to) {
    static const uint64_t shifts[8] = {0, 4, 8, 12, 16, 20, 24, 28};
    for (int n = 0; n < PAD; n += W) {
        uint64_t word;
        words shift;
        memcpy(&word, from + n / 16 * 8, sizeof word);
        memcpy(&shift, shifts + n % 16 / 2, sizeof shift);
        store(to + n, look_up(table, (ints)(((words){0} + word) >> shift)));
    }
}

/* Unpacks columns start .. start + count - 1 of a row; `count` is a multiple of PAD. */
INLINE void unpack(const Product *p, ptrdiff_t row, ptrdiff_t start, ptrdiff_t count, float *to) {
    static const float fp4[16] = {0, .5f, 1, 1.5f, 2, 3, 4, 6, -0.f, -.5f, -1, -1.5f, -2, -3, -4, -6};
    static const float counts[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const char *values = p->values + row * p->value_row, *scales = p->scales + row * p->scale_row;
    const uint8_t *from = (const uint8_t *)values + (p->kind == AFFINE8 ? start : start / 2);
    if (p->kind <= FLOAT16) {
        ptrdiff_t known = p->inputs - start < count ? p->inputs - start : count, n = 0; /* zeros follow */
        const uint16_t *half = (const uint16_t *)values + start;
        if (p->kind == FLOAT32) memcpy(to, values + 4 * start, 4 * (size_t)known), n = known;
        else if (p->kind == BFLOAT16)
            for (; n + W <= known; n += W) store(to + n, (vec)(from_halves(half + n) << 16));
        else
            for (; n + W <= known; n += W) store(to + n, from_float16(half + n));
        for (; n < known; n++) to[n] = value_at(p->kind, half, n);
        memset(to + known, 0, 4 * (size_t)(count - known));
    } else if (p->kind == MXFP4) {
        const uint8_t *exponents = (const uint8_t *)scales + start / PAD;
        for (ptrdiff_t n = 0; n < count / PAD; n++) {
            vec table[16 / W];
            for (int i = 0; i < 16 / W; i++) table[i] = load(fp4 + i * W) * powers_of_2[exponents[n]];
            unpack_codes(from + n * (PAD / 2), table, to + n * PAD);
        }
    } else {
        ptrdiff_t group = start / p->group, left = p->group - start % p->group;
        for (ptrdiff_t n = 0; n < count; n += PAD, left -= PAD) {
            if (left == 0) group++, left = p->group;
            vec scale = all(value_at(p->scale_kind, scales, group)), table[16 / W];
            vec bias = all(value_at(p->scale_kind, p->biases + row * p->scale_row, group));
            for (int i = 0; i < PAD && p->kind == AFFINE8; i += W)
                store(to + n + i, __builtin_convertvector(from_bytes(from + n + i), vec) * scale + bias);
            if (p->kind == AFFINE8) continue;
            for (int i = 0; i < 16 / W; i++) table[i] = load(counts + i * W) * scale + bias;
            unpack_codes(from + n / 2, table, to + n);
        }
    }
}

/* Adds to sums[r][m] the product of `count` columns of row r of x and row m of the unpacked block. */
INLINE void dots(int rows, const float *const x[], const float *block, ptrdiff_t count, float (*sums)[SUMS]) {
    vec totals[X_TOGETHER][MATRIX_ROWS] = {0};
    for (ptrdiff_t n = 0; n < count; n += W)
#pragma GCC unroll 8
        for (int m = 0; m < MATRIX_ROWS; m++) {
            vec values = load(block + m * STRIDE + n);
#pragma GCC unroll 3
            for (int r = 0; r < rows; r++) totals[r][m] += values * load(x[r] + n);
        }
    for (int r = 0; r < rows; r++)
        for (int m = 0; m < MATRIX_ROWS; m++) sums[r][m] += sum_of(totals[r][m]);
}

/* The row of a matrix for sum n of a job. With SwiGLU each two sums are gate and up of an output. */
INLINE ptrdiff_t row_of(const Product *p, ptrdiff_t output, ptrdiff_t n) {
    if (!p->swiglu) return output + n;
    return p->alternates ? 2 * output + n : n % 2 * p->outputs + output + n / 2;
}

/* gate * sigmoid(alpha * gate) * (up + 1), after both are clamped, the gate only from above. Writes `count` values. */
INLINE void activate(const Product *p, const float *sums, ptrdiff_t count, float *to) {
    float gates[SUMS / 2], ups[SUMS / 2];
    vec limit = all(p->limit);
    for (int n = 0; n < SUMS / 2; n++) gates[n] = sums[2 * n], ups[n] = sums[2 * n + 1];
    for (int n = 0; n < SUMS / 2; n += W) {
        vec gate = smaller(load(gates + n), limit);
        vec up = smaller(larger(load(ups + n), -limit), limit);
        store(ups + n, gate / (power_of_2(gate * (p->alpha * -1.44269504f)) + 1.0f) * (up + 1.0f));
    }
    memcpy(to, ups, 4 * (size_t)count);
}

HERE static void product_job(const void *context, int job, int thread) {
    const Product *p = context;
    const struct Piece piece = p->pieces[job / p->columns];
    const ptrdiff_t first = piece.expert * p->rows, each = p->pairs / p->x_rows;
    const ptrdiff_t output = job % p->columns * p->height;
    const ptrdiff_t outputs = p->outputs - output < p->height ? p->outputs - output : p->height;
    const ptrdiff_t rows = outputs * (1 + p->swiglu);
    _Alignas(64) float block[MATRIX_ROWS * STRIDE], sums[X_ROWS][SUMS];
    memset(sums, 0, sizeof *sums * (size_t)piece.count);
    for (ptrdiff_t n = 0; n < rows; n += MATRIX_ROWS)
        for (ptrdiff_t start = 0; start < p->padded; start += BLOCK) {
            ptrdiff_t count = p->padded - start < BLOCK ? p->padded - start : BLOCK;
            for (int m = 0; m < MATRIX_ROWS; m++) {
                ptrdiff_t row = first + row_of(p, output, n + m < rows ? n + m : rows - 1);
                /* By itself the processor does not see where the next rows are. */
                const char *next = p->values + (row + MATRIX_ROWS) * p->value_row;
                ptrdiff_t end = p->value_row * (start + count) / p->padded;
                for (ptrdiff_t i = p->value_row * start / p->padded; i < end; i += 64) __builtin_prefetch(next + i);
                unpack(p, row, start, count, block + m * STRIDE);
            }
            for (int r = 0, now; r < piece.count; r += now) {
                const float *x[X_TOGETHER];
                now = piece.count - r == 4 ? 2 : piece.count - r < X_TOGETHER ? piece.count - r : X_TOGETHER;
                for (int i = 0; i < now; i++)
                    x[i] = p->x + p->order[piece.first + r + i] / each * p->padded + start;
                float(*to)[SUMS] = (float(*)[SUMS]) & sums[r][n];
                if (now == 3) dots(3, x, block, count, to);
                else if (now == 2) dots(2, x, block, count, to);
                else dots(1, x, block, count, to);
            }
        }
    for (int r = 0; r < piece.count; r++) {
        float *out = p->out + p->order[piece.first + r] * p->outputs + output;
        for (ptrdiff_t n = 0; n < rows && p->bias; n++) sums[r][n] += p->bias[first + row_of(p, output, n)];
        if (p->swiglu) activate(p, sums[r], outputs, out);
        else memcpy(out, sums[r], 4 * (size_t)outputs);
    }
}
