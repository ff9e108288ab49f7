/* Must compile and link with -fopenmp before lowprec._sgd is built with threads. Never run. */
#include <omp.h>

int main(void)
{
    int sum = 0;
#pragma omp parallel for reduction(+ : sum)
    for (int i = 0; i < 8; i++)
        sum += omp_get_thread_num();
    return sum < 0;
}
