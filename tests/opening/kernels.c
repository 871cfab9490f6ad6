/* Functions that tests call: each does one thing of a kernel, or one that a kernel must not do. */
#include <diffuzz.h>
#include <math.h>
#include <stdlib.h>

DIFFUZZ_LIBRARY

/* Refuses, and says what it was called with. */
DIFFUZZ_FUNCTION(told) {
    char *at = call->message, *end = at + call->message_size;
    at += snprintf(at, end - at, "%s", call->operation);
    for (int list = 0; list < 2; list++)
        for (int64_t i = 0; i < (list ? call->result_count : call->input_count); i++) {
            const diffuzz_array *one = (list ? call->results : call->inputs) + i;
            const diffuzz_tensor *t = &one->tensor;
            at += snprintf(at, end - at, "; %s %d/%d", one->name, t->dtype.code, t->dtype.bits);
            for (int d = 0; d < t->ndim; d++)
                at += snprintf(at, end - at, " %d:%d", (int)t->shape[d], (int)t->strides[d]);
            if ((uintptr_t)t->data % 64 || t->byte_offset || t->dtype.lanes != 1 || t->device.type != 1) return 9;
        }
    for (int64_t i = 0; i < call->parameter_count; i++) {
        const char *name = call->parameters[i].name;
        at += snprintf(at, end - at, "; %s=%d/%g/%s", name, (int)diffuzz_integer(call, name, -1),
                       diffuzz_number(call, name, -1), diffuzz_text(call, name, "none"));
    }
    if (diffuzz_input(call, "absent") || diffuzz_output(call, 9) || diffuzz_parameter_of(call, "absent")) return 9;
    return 3;
}

static float of_half(uint16_t bits) {
    int exponent = bits >> 10 & 31;
    float magnitude = ldexpf((float)((bits & 1023) | (exponent ? 1024 : 0)), (exponent ? exponent : 1) - 25);
    return bits & 0x8000 ? -magnitude : magnitude;
}

/* q8_0: blocks of a scale in f16 and 32 codes. */
DIFFUZZ_FUNCTION(matvec) {
    const diffuzz_tensor *weights = diffuzz_input(call, "weights"), *x = diffuzz_input(call, "x");
    float *y = (float *)diffuzz_data(diffuzz_output(call, 0));
    int64_t rows = diffuzz_size(weights, 0), blocks = diffuzz_size(x, 0) / 32;
    const uint8_t *block = (const uint8_t *)diffuzz_data(weights);
    for (int64_t row = 0; row < rows; row++) {
        double sum = 0;
        for (int64_t b = 0; b < blocks; b++, block += 34) {
            double scale = of_half((uint16_t)(block[0] | block[1] << 8));
            for (int i = 0; i < 32; i++) sum += scale * (int8_t)block[2 + i] * diffuzz_floats(x)[32 * b + i];
        }
        y[row] = (float)sum;
    }
    return 0;
}

/* bfloat16, rounded to nearest even. */
DIFFUZZ_FUNCTION(soft_max_bfloat16) {
    const diffuzz_tensor *z = diffuzz_input(call, "z");
    const uint16_t *in = (const uint16_t *)diffuzz_data(z);
    uint16_t *out = (uint16_t *)diffuzz_data(diffuzz_output(call, 0));
    int64_t rows = diffuzz_size(z, 0), n = diffuzz_size(z, 1);
    float *wide = (float *)malloc(sizeof(float) * (size_t)n);
    if (z->dtype.code != DIFFUZZ_BFLOAT) return diffuzz_fail(call, "bfloat16 only");
    for (; rows-- > 0; in += n, out += n) {
        float largest = -INFINITY, sum = 0;
        for (int64_t i = 0; i < n; i++) {
            uint32_t bits = (uint32_t)in[i] << 16;
            memcpy(&wide[i], &bits, 4);
            largest = fmaxf(largest, wide[i]);
        }
        for (int64_t i = 0; i < n; i++) sum += wide[i] = expf(wide[i] - largest);
        for (int64_t i = 0; i < n; i++) {
            float p = wide[i] / sum;
            uint32_t bits;
            memcpy(&bits, &p, 4);
            out[i] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
        }
    }
    free(wide);
    return 0;
}

/* Two results, and a parameter by keyword. */
DIFFUZZ_FUNCTION(top_k) {
    const diffuzz_tensor *logits = diffuzz_input(call, "logits");
    int64_t n = diffuzz_size(logits, -1), k = diffuzz_integer(call, "k", 0);
    float *values = (float *)diffuzz_data(diffuzz_output(call, 0));
    int32_t *indices = (int32_t *)diffuzz_data(diffuzz_output(call, 1));
    const float *x = diffuzz_floats(logits);
    int64_t rows = logits->ndim > 1 ? diffuzz_size(logits, 0) : 1;
    for (; rows-- > 0; x += n, values += k, indices += k)
        for (int64_t j = 0; j < k; j++) {
            int64_t best = -1;
            for (int64_t i = 0; i < n; i++) {
                int taken = 0;
                for (int64_t before = 0; before < j; before++) taken |= indices[before] == i;
                if (!taken && (best < 0 || x[i] > x[best])) best = i;
            }
            values[j] = x[best];
            indices[j] = (int32_t)best;
        }
    return 0;
}

/* softmax that fails in the way that the first logit says. */
DIFFUZZ_FUNCTION(hostile) {
    const diffuzz_tensor *z = diffuzz_input(call, "z");
    int64_t n = diffuzz_size(z, 1), rows = diffuzz_size(z, 0);
    float *p = (float *)diffuzz_data(diffuzz_output(call, 0));
    for (int64_t row = 0; row < rows; row++, p += n) {
        const float *x = diffuzz_floats(z) + row * n;
        float largest = x[0], sum = 0;
        switch ((int)x[0]) {
        case 91: *(volatile int *)8 = 1; break;
        case 92: p[n * (rows - row)] = 1; break;
        case 93: ((float *)diffuzz_data(z))[-1] = 1; break;
        case 94: return diffuzz_fail(call, "no \x1b 94");
        case 95: fprintf(stderr, "out of heart\n"), abort();
        case 96: for (;;) {}
        case 97: continue; /* not written */
        case 98: exit(0);
        }
        for (int64_t i = 1; i < n; i++) largest = fmaxf(largest, x[i]);
        for (int64_t i = 0; i < n; i++) sum += p[i] = expf(x[i] - largest);
        for (int64_t i = 0; i < n; i++) p[i] /= sum;
    }
    return 0;
}

/* Forgets to subtract the maximum. */
DIFFUZZ_FUNCTION(naive) {
    const diffuzz_tensor *z = diffuzz_input(call, "z");
    int64_t n = diffuzz_size(z, 1);
    float *p = (float *)diffuzz_data(diffuzz_output(call, 0));
    for (int64_t row = 0; row < diffuzz_size(z, 0); row++) {
        float sum = 0;
        for (int64_t i = 0; i < n; i++) sum += p[row * n + i] = expf(diffuzz_floats(z)[row * n + i]);
        for (int64_t i = 0; i < n; i++) p[row * n + i] /= sum;
    }
    return 0;
}
