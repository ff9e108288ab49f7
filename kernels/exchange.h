/* Explicit communication between the workers of a team: docs/architecture.md, "Communication". Every step of an exchange is a function
 * of this process's own state and of messages, so that threads and processes exchange alike. */
#ifndef LP_EXCHANGE_H
#define LP_EXCHANGE_H

#include "codec.h"
#include "driver.h"

typedef struct lp_exchange {
    const lp_codec *codec;
    int64_t columns;          /* numbers to exchange: the model's without pads */
    int32_t random, feedback; /* are codes rounded at random? is what a coding leaves out kept? */
    int32_t synchronous;
    int32_t staleness; /* asynchronous: how many rounds the slowest may be behind */
    float **agreed;    /* [worker], of this process's: n numbers in quanta. Synchronous: one for all, of a 32f model w itself */
    float **residual;  /* [worker], of this process's: n numbers; or NULL */
    float *owned;      /* n: the owners' residuals; asynchronous: the owners' chunks of the model */
    float **told; /* asynchronous: [worker]: what it has been told of the model, columns from told_from on; of threads `agreed` */
    int64_t told_from;
    lp_rng *giving, *merging; /* [worker], [owner] */
    uint8_t **messages;       /* threads: [worker]: room for what it gives, a vector's bytes and a few */
    uint8_t *merged;          /* threads: the same for what the owners send */
    int64_t *offsets;         /* threads: [owner]: where its chunk begins in these */
    int64_t *clocks;          /* asynchronous threads: rounds that a worker has finished, a cache line each */
    int64_t exchanges;        /* done; asynchronous: of all workers */
    double seconds;           /* spent in them; asynchronous: summed over the workers */
} lp_exchange;

/* Columns [*first, *last) belong to owner q. */
void lp_chunk(const lp_team *team, int32_t q, int64_t *first, int64_t *last);
int64_t lp_message_bytes(const lp_team *team, int32_t q);

/* The agreed model is the team's from now on; nothing is under way. */
void lp_exchange_begin(lp_team *team);

/* Worker t's change of owner q's columns. Its pending update has been applied. */
void lp_give(const lp_team *team, int32_t t, int32_t q, uint8_t *message);

/* Synchronous. What all workers gave owner q, in their order (messages[t] + at), as one message to all; and its effect. */
void lp_reduce(const lp_team *team, int32_t q, uint8_t *const *messages, int64_t at, uint8_t *merged);
void lp_take(const lp_team *team, int32_t q, const uint8_t *merged);
/* Threads: worker t's replica from the agreed model. (A local worker's is written by take.) */
void lp_refill(const lp_team *team, int32_t t);

/* Asynchronous. After the last give of a round; what worker t gave owner q, and its answer; the answer's effect on what worker t
 * knows, where that is not the owner's own book; the replica, when all answers are in. */
void lp_given(const lp_team *team, int32_t t);
void lp_answer(const lp_team *team, int32_t q, int32_t t, const uint8_t *message, uint8_t *answer);
void lp_hear(const lp_team *team, int32_t t, int32_t q, const uint8_t *answer);
void lp_learn(const lp_team *team, int32_t t);
/* Everybody takes the owners' chunks as they are; replicas are to be filled again. */
void lp_meet(lp_team *team);

/* The model as codes, as far as is known here, between two meetings. */
void lp_agreed_codes(const lp_team *team, void *w);

/* Around a change of w by something else than an exchange, when nothing is under way: what w leaves out of the agreed model is
 * added to the new one, multiplied by factor, as the change has multiplied the model. */
void lp_carry_out(lp_team *team);
void lp_carry_in(lp_team *team, float factor);

/* Threads. One exchange of all workers, which wait for each other: parts [thread of threads]; and worker t's turn. */
void lp_exchange_give(const lp_team *team, int32_t thread, int32_t threads);
void lp_exchange_merge(const lp_team *team, int32_t thread, int32_t threads);
void lp_exchange_turn(const lp_team *team, int32_t t);

#endif
