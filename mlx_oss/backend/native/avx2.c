#if defined(__x86_64__)
#include <immintrin.h>
#define AVX2
#define TARGET "avx2,fma"
enum { W = 8, SUM_VECTORS = 12, X_TOGETHER = 4, TOGETHER = 2 };
#include "jobs.h"
const Level avx2 = {"AVX2", product_job, attention_job};
#endif
