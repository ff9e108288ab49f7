/* Tables built once at import, from + - * / alone, so that every machine has the same bits.
 *
 * The table behind lp_logistic: s(t) = 1 / (1 + exp(t)) as one cubic per node t_k = k / 16, in u = 16 t - k in [-1/2, 1/2].
 * Cubic Hermite interpolation between the ends of each interval: error <= h^4 / 384 * max |s''''| < 6e-9 at h = 1/16.
 */
#include "scalar.h"

double lp_logistic_table[LP_LOGISTIC_NODES][4];

/* 1 / |k - 1024| for the thresholds of 8 x 8 steps; that of 0 is so large that (r + 1/2) times it is beyond every 8-bit code. */
float lp_reciprocal[2049];

/* exp(t), |t| <= 33: exp(t / 64)^64 by Taylor and six squarings; relative error about 1e-14. */
static double exp_plain(double t)
{
    double r = t / 64.0, term = 1.0, sum = 1.0;
    for (int k = 1; k <= 20; k++) {
        term = term * r / k;
        sum = sum + term;
    }
    for (int k = 0; k < 6; k++)
        sum = sum * sum;
    return sum;
}

void lp_tables_init(void)
{
    lp_reciprocal[1024] = 1024.0f;
    for (int k = 1; k <= 1024; k++)
        lp_reciprocal[1024 - k] = lp_reciprocal[1024 + k] = 1.0f / (float)k;
    for (int k = 0; k < LP_LOGISTIC_NODES; k++) {
        double *c = lp_logistic_table[k];
        double s[2], d[2]; /* value and derivative with respect to u, at u = -1/2 and 1/2 */
        for (int side = 0; side < 2; side++) {
            double e = exp_plain((k - 16 * LP_LOGISTIC_RANGE + side - 0.5) / 16.0);
            s[side] = 1.0 / (1.0 + e);
            d[side] = -s[side] * (e / (1.0 + e)) / 16.0;
        }
        c[0] = 0.5 * (s[0] + s[1]) + 0.125 * (d[0] - d[1]);
        c[1] = 1.5 * (s[1] - s[0]) - 0.25 * (d[0] + d[1]);
        c[2] = 0.5 * (d[1] - d[0]);
        c[3] = (d[0] + d[1]) - 2.0 * (s[1] - s[0]);
    }
}
