#if defined(__x86_64__)
#include <immintrin.h>
#define AVX512
#define TARGET "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma"
enum { W = 16, SUM_VECTORS = 24, X_TOGETHER = 8, TOGETHER = 4 };
#include "jobs.h"
const Level avx512 = {"AVX-512", product_job, attention_job};
#endif
