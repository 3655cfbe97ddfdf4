/* W7 without a library: the forward pass, the backward pass and Adam of the tiny GPT, one window of tokens at a time.
   The sizes COUNT, TIME, FEATURES and HEADS are given to the compiler. A gradient has the name of its value and _bar. */

#include <float.h>
#include <math.h>
#include <string.h>

#define HIDDEN (4 * FEATURES)
#define SIZE (FEATURES / HEADS)

typedef struct {
    float embedding[COUNT][FEATURES], positions[TIME][FEATURES];
    float query[FEATURES][FEATURES], key[FEATURES][FEATURES], value[FEATURES][FEATURES], attended[FEATURES][FEATURES];
    float first[FEATURES][HIDDEN], second[HIDDEN][FEATURES], output[FEATURES][COUNT];
} Params;

/* A row of norms for each step of a window: the normalized values, and what they were multiplied by. */
typedef struct {
    float y[TIME][FEATURES], factor[TIME];
} Norm;

typedef struct {
    Norm start, before_attention, before_dense;
    float query[TIME][FEATURES], key[TIME][FEATURES], value[TIME][FEATURES], mixed[TIME][FEATURES];
    float weights[HEADS][TIME][TIME], middle[TIME][FEATURES], hidden[TIME][HIDDEN], end[TIME][FEATURES];
    float logits[TIME][COUNT];
} Values;

/* y += x w, for TIME rows. */
static inline void product(int inputs, int outputs, const float *x, const float *w, float *y) {
    for (int t = 0; t < TIME; t++)
        for (int i = 0; i < inputs; i++)
            for (int o = 0; o < outputs; o++) y[t * outputs + o] += x[t * inputs + i] * w[i * outputs + o];
}

/* w_bar += xᵀ y_bar, and x_bar += y_bar wᵀ. */
static inline void product_backward(int inputs, int outputs, const float *x, const float *w, const float *y_bar,
                                    float *w_bar, float *x_bar) {
    for (int i = 0; i < inputs; i++)
        for (int t = 0; t < TIME; t++) {
            float sum = 0;
            for (int o = 0; o < outputs; o++) {
                w_bar[i * outputs + o] += x[t * inputs + i] * y_bar[t * outputs + o];
                sum += y_bar[t * outputs + o] * w[i * outputs + o];
            }
            x_bar[t * inputs + i] += sum;
        }
}

static void norm(float (*x)[FEATURES], Norm *n) {
    for (int t = 0; t < TIME; t++) {
        float sum = 0;
        for (int i = 0; i < FEATURES; i++) sum += x[t][i] * x[t][i];
        n->factor[t] = 1 / sqrtf(sum / FEATURES + 1e-5f);
        for (int i = 0; i < FEATURES; i++) n->y[t][i] = x[t][i] * n->factor[t];
    }
}

/* Adds to x_bar what y_bar gives. */
static void norm_backward(const Norm *n, float (*y_bar)[FEATURES], float (*x_bar)[FEATURES]) {
    for (int t = 0; t < TIME; t++) {
        float sum = 0;
        for (int i = 0; i < FEATURES; i++) sum += y_bar[t][i] * n->y[t][i];
        for (int i = 0; i < FEATURES; i++)
            x_bar[t][i] += n->factor[t] * (y_bar[t][i] - n->y[t][i] * sum / FEATURES);
    }
}

static void forward(const Params *p, const int *tokens, Values *v) {
    float x[TIME][FEATURES];
    memset(v, 0, sizeof *v);
    for (int t = 0; t < TIME; t++)
        for (int i = 0; i < FEATURES; i++) x[t][i] = p->embedding[tokens[t]][i] + p->positions[t][i];
    norm(x, &v->start);
    norm(v->start.y, &v->before_attention);
    product(FEATURES, FEATURES, *v->before_attention.y, *p->query, *v->query);
    product(FEATURES, FEATURES, *v->before_attention.y, *p->key, *v->key);
    product(FEATURES, FEATURES, *v->before_attention.y, *p->value, *v->value);
    for (int h = 0; h < HEADS; h++)
        for (int t = 0; t < TIME; t++) {
            float *weights = v->weights[h][t], largest = -FLT_MAX, total = 0;
            for (int j = 0; j <= t; j++) {
                for (int d = h * SIZE; d < (h + 1) * SIZE; d++) weights[j] += v->query[t][d] * v->key[j][d];
                weights[j] /= sqrtf(SIZE);
                largest = fmaxf(largest, weights[j]);
            }
            for (int j = 0; j <= t; j++) total += weights[j] = expf(weights[j] - largest);
            for (int j = 0; j <= t; j++) {
                weights[j] /= total;
                for (int d = h * SIZE; d < (h + 1) * SIZE; d++) v->mixed[t][d] += weights[j] * v->value[j][d];
            }
        }
    memcpy(v->middle, v->start.y, sizeof v->middle);
    product(FEATURES, FEATURES, *v->mixed, *p->attended, *v->middle);
    norm(v->middle, &v->before_dense);
    product(FEATURES, HIDDEN, *v->before_dense.y, *p->first, *v->hidden);
    for (int t = 0; t < TIME; t++)
        for (int i = 0; i < HIDDEN; i++) v->hidden[t][i] = fmaxf(v->hidden[t][i], 0);
    memcpy(v->end, v->middle, sizeof v->end);
    product(HIDDEN, FEATURES, *v->hidden, *p->second, *v->end);
    product(FEATURES, COUNT, *v->end, *p->output, *v->logits);
}

/* The loss, the mean over a window, and its gradient, which is added to bar. */
static float loss_and_gradient(const Params *p, const int *tokens, Params *bar) {
    Values v;
    float loss = 0, logits_bar[TIME][COUNT], mixed_bar[TIME][FEATURES] = {0}, hidden_bar[TIME][HIDDEN] = {0};
    float x_bar[TIME][FEATURES] = {0}, norm_bar[TIME][FEATURES] = {0}, start_bar[TIME][FEATURES] = {0};
    float query_bar[TIME][FEATURES] = {0}, key_bar[TIME][FEATURES] = {0}, value_bar[TIME][FEATURES] = {0};
    forward(p, tokens, &v);
    for (int t = 0; t < TIME; t++) {
        float largest = -FLT_MAX, total = 0;
        for (int c = 0; c < COUNT; c++) largest = fmaxf(largest, v.logits[t][c]);
        for (int c = 0; c < COUNT; c++) total += logits_bar[t][c] = expf(v.logits[t][c] - largest);
        for (int c = 0; c < COUNT; c++) logits_bar[t][c] /= total * TIME;
        logits_bar[t][tokens[t + 1]] -= 1.0f / TIME;
        loss += (logf(total) + largest - v.logits[t][tokens[t + 1]]) / TIME;
    }
    product_backward(FEATURES, COUNT, *v.end, *p->output, *logits_bar, *bar->output, *x_bar);
    product_backward(HIDDEN, FEATURES, *v.hidden, *p->second, *x_bar, *bar->second, *hidden_bar);
    for (int t = 0; t < TIME; t++)
        for (int i = 0; i < HIDDEN; i++) hidden_bar[t][i] = v.hidden[t][i] > 0 ? hidden_bar[t][i] : 0;
    product_backward(FEATURES, HIDDEN, *v.before_dense.y, *p->first, *hidden_bar, *bar->first, *norm_bar);
    norm_backward(&v.before_dense, norm_bar, x_bar);
    product_backward(FEATURES, FEATURES, *v.mixed, *p->attended, *x_bar, *bar->attended, *mixed_bar);
    for (int h = 0; h < HEADS; h++)
        for (int t = 0; t < TIME; t++) {
            float *weights = v.weights[h][t], weights_bar[TIME] = {0}, sum = 0;
            for (int j = 0; j <= t; j++) {
                for (int d = h * SIZE; d < (h + 1) * SIZE; d++) {
                    weights_bar[j] += mixed_bar[t][d] * v.value[j][d];
                    value_bar[j][d] += mixed_bar[t][d] * weights[j];
                }
                sum += weights[j] * weights_bar[j];
            }
            for (int j = 0; j <= t; j++) {
                float score_bar = weights[j] * (weights_bar[j] - sum) / sqrtf(SIZE);
                for (int d = h * SIZE; d < (h + 1) * SIZE; d++) {
                    query_bar[t][d] += score_bar * v.key[j][d];
                    key_bar[j][d] += score_bar * v.query[t][d];
                }
            }
        }
    memset(norm_bar, 0, sizeof norm_bar);
    product_backward(FEATURES, FEATURES, *v.before_attention.y, *p->query, *query_bar, *bar->query, *norm_bar);
    product_backward(FEATURES, FEATURES, *v.before_attention.y, *p->key, *key_bar, *bar->key, *norm_bar);
    product_backward(FEATURES, FEATURES, *v.before_attention.y, *p->value, *value_bar, *bar->value, *norm_bar);
    norm_backward(&v.before_attention, norm_bar, x_bar);
    norm_backward(&v.start, x_bar, start_bar);
    for (int t = 0; t < TIME; t++)
        for (int i = 0; i < FEATURES; i++) {
            bar->embedding[tokens[t]][i] += start_bar[t][i];
            bar->positions[t][i] += start_bar[t][i];
        }
    return loss;
}

/* One step for each window, with Adam as Optax and PyTorch have it. The moments and the number of steps so far are
   the state; losses gets the loss of each step. */
void train(float *params, float *mean, float *square, int *done, const int *windows, int steps, float learning_rate,
           float *losses) {
    const int parameters = sizeof(Params) / sizeof(float);
    for (int s = 0; s < steps; s++) {
        union {
            Params of;
            float flat[sizeof(Params) / sizeof(float)];
        } bar = {0};
        losses[s] = loss_and_gradient((const Params *)params, windows + s * (TIME + 1), &bar.of);
        *done += 1;
        float mean_unbias = 1 / (1 - powf(0.9f, *done)), square_unbias = 1 / (1 - powf(0.999f, *done));
        for (int i = 0; i < parameters; i++) {
            mean[i] = 0.9f * mean[i] + 0.1f * bar.flat[i];
            square[i] = 0.999f * square[i] + 0.001f * bar.flat[i] * bar.flat[i];
            params[i] -= learning_rate * mean[i] * mean_unbias / (sqrtf(square[i] * square_unbias) + 1e-8f);
        }
    }
}

/* The logits of each step of a window. */
void predict(const float *params, const int *tokens, float *logits) {
    Values v;
    forward((const Params *)params, tokens, &v);
    memcpy(logits, v.logits, sizeof v.logits);
}
