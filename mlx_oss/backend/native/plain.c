enum { W = 4, SUM_VECTORS = 12, X_TOGETHER = 4, TOGETHER = 2 };
#include "jobs.h"
const Level plain = {"C", product_job, attention_job};
