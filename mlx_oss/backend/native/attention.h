/* Attention, tile by tile: the softmax is updated after each tile of keys (arXiv 1805.02867), so that all scores are
 * never held. A row, which is one query head at one position, is computed in the same way whatever its neighbours. */

enum { KEYS = 4 * W }; /* of a tile */

/* to[r] = a[r] b, or to[r] + a[r] b if `adds`, for TOGETHER rows of a and 4 W columns of b, which has `count` rows. */
INLINE void rows_times(const float *a, ptrdiff_t a_row, const float *b, ptrdiff_t b_row, int count, float *to,
                       ptrdiff_t to_row, int adds) {
    vec sums[TOGETHER][4] = {0};
    for (int r = 0; r < TOGETHER && adds; r++)
        for (int i = 0; i < 4; i++) sums[r][i] = load(to + r * to_row + i * W);
    for (int n = 0; n < count; n++)
        for (int i = 0; i < 4; i++) {
            vec values = load(b + n * b_row + i * W);
            for (int r = 0; r < TOGETHER; r++) sums[r][i] += values * all(a[r * a_row + n]);
        }
    for (int r = 0; r < TOGETHER; r++)
        for (int i = 0; i < 4; i++) store(to + r * to_row + i * W, sums[r][i]);
}

/* Updates a row of the softmax with the scores of a tile. They become powers of 2, relative to the largest so far. */
INLINE void update(float *scores, float *out, int width, float *largest, float *total) {
    vec top = all(*largest), sum = {0};
    for (int i = 0; i < KEYS; i += W) top = larger(top, load(scores + i));
    float now = largest_of(top), base = now == -INFINITY ? 0 : now; /* nothing is seen yet, and the sink is nothing */
    float shrink = power_of_2(all(*largest - base))[0];
    for (int i = 0; i < KEYS; i += W) {
        vec power = power_of_2(load(scores + i) - base);
        store(scores + i, power);
        sum += power;
    }
    for (int d = 0; d < width && shrink != 1; d += W) store(out + d, load(out + d) * shrink);
    *total = *total * shrink + sum_of(sum);
    *largest = now;
}

/* A job is a kv head and some queries. Its rows are the query heads of that kv head, query by query. */
HERE static void attention_job(const void *context, int job, int thread) {
    const Attention *a = context;
    const int blocks = (a->L + a->queries - 1) / a->queries, G = a->H / a->K, D = a->D;
    const int b = job / blocks / a->K, head = job / blocks % a->K, first = job % blocks * a->queries;
    const int rows = (a->L - first < a->queries ? a->L - first : a->queries) * G, before = a->S - a->L + first;
    const int places = (rows + TOGETHER - 1) / TOGETHER * TOGETHER, width = (D + KEYS - 1) / KEYS * KEYS;
    float *q = a->memory + (size_t)thread * a->memory_each, *out = q + places * D, *scores = out + places * width;
    float *largest = scores + places * KEYS, *total = largest + places;
    float *keys = total + places, *values = keys + D * KEYS;
    memset(q, 0, 4 * (size_t)(places * (D + width)));
    if (width > D) memset(values, 0, 4 * (size_t)(KEYS * width));
    for (int r = 0; r < rows; r++) {
        const float *from = a->q + b * a->q_row[0] + (head * G + r % G) * a->q_row[1] + (first + r / G) * a->q_row[2];
        for (int d = 0; d < D; d++) q[r * D + d] = from[d] * (a->scale * 1.44269504f); /* log2(e) */
        largest[r] = a->sinks[head * G + r % G] * 1.44269504f; /* the sink has a score, and no value */
        total[r] = 1;
    }
    const int since = before < a->window ? 0 : (before - a->window + 1) / KEYS * KEYS, until = before + rows / G;
    for (int start = since; start < until; start += KEYS) {
        const int count = until - start < KEYS ? until - start : KEYS;
        const float *v = a->v + b * a->v_row[0] + head * a->v_row[1] + start * a->v_row[2];
        for (int n = 0; n < KEYS; n++) { /* behind the last key it is repeated, and not seen */
            const float *k = a->k + b * a->k_row[0] + head * a->k_row[1];
            k += (start + (n < count ? n : count - 1)) * a->k_row[2];
            for (int d = 0; d < D; d++) keys[d * KEYS + n] = k[d];
        }
        for (int n = 0; n < count; n++) memcpy(values + n * width, v + n * a->v_row[2], 4 * (size_t)D);
        for (int r = 0; r < places; r += TOGETHER) rows_times(q + r * D, D, keys, KEYS, D, scores + r * KEYS, KEYS, 0);
        for (int r = 0; r < rows; r++) {
            const int position = before + r / G, seen = position - a->window; /* it sees the keys behind `seen` */
            if (start + KEYS > position || start <= seen)
                for (int n = 0; n < KEYS; n++)
                    if (start + n > position || start + n <= seen) scores[r * KEYS + n] = -INFINITY;
            update(scores + r * KEYS, out + r * width, width, largest + r, total + r);
        }
        for (int r = 0; r < places; r += TOGETHER)
            for (int d = 0; d < width; d += KEYS)
                rows_times(scores + r * KEYS, KEYS, values + d, width, count, out + r * width + d, width, 1);
    }
    for (int r = 0; r < rows; r++) {
        float *to = a->out + (((ptrdiff_t)b * a->L + first + r / G) * a->H + head * G + r % G) * D;
        for (int d = 0; d < D; d++) to[d] = out[r * width + d] / total[r];
    }
}
