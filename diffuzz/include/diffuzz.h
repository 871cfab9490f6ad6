/* diffuzz.h: a function of C, C++, Rust or another language as a candidate of diffuzz.
 *
 *     #include <diffuzz.h>
 *     DIFFUZZ_LIBRARY
 *     DIFFUZZ_FUNCTION(soft_max) {
 *         const diffuzz_tensor *z = diffuzz_input(call, "z"), *out = diffuzz_output(call, 0);
 *         ...
 *         return 0;
 *     }
 *
 *     cc -O2 -shared -fPIC -I"$(python -m diffuzz include)" kernel.c -o kernel.so -lm
 *     python -m diffuzz search --target softmax --candidate kernel.so:soft_max
 *
 * The function is called with inputs, results to be written, and parameters, all by the names of the operation's
 * signature (docs/candidates.md). Arrays are those of C: contiguous, the last index the fastest, aligned to 64 bytes,
 * not empty, and on the CPU. Their memory is valid until the function returns. Inputs may be written to.
 *
 * It returns 0 once all results are written. Any other number says that it refuses or has failed, which is a finding
 * where the operation promises a result; diffuzz_fail() leaves a message. What is not written stays as it was: bytes of
 * 0xff, which are NaN. Around each array there are 64 bytes that must not be written to.
 */
#ifndef DIFFUZZ_H
#define DIFFUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* The layout of diffuzz_call. A library of another version is not loaded. */
#define DIFFUZZ_ABI_VERSION 1

#ifdef __cplusplus
#define DIFFUZZ_EXTERN extern "C"
#else
#define DIFFUZZ_EXTERN extern
#endif
#ifdef _WIN32
#define DIFFUZZ_EXPORT DIFFUZZ_EXTERN __declspec(dllexport)
#else
#define DIFFUZZ_EXPORT DIFFUZZ_EXTERN __attribute__((visibility("default")))
#endif

/* Once in each library, outside of any function: which version of this header it was compiled with. */
#define DIFFUZZ_LIBRARY                                 \
    DIFFUZZ_EXPORT uint32_t diffuzz_abi_version(void);  \
    uint32_t diffuzz_abi_version(void) { return DIFFUZZ_ABI_VERSION; }

/* The head of a function that can be a candidate. */
#define DIFFUZZ_FUNCTION(name)                          \
    DIFFUZZ_EXPORT int name(const diffuzz_call *call);  \
    int name(const diffuzz_call *call)

/* Codes of types, with their number of bits: those of DLPack. */
enum {
    DIFFUZZ_INT = 0,            /* 32: int32 */
    DIFFUZZ_UINT = 1,           /* 8: uint8, the bytes of quantised blocks */
    DIFFUZZ_FLOAT = 2,          /* 16, 32, 64 */
    DIFFUZZ_BFLOAT = 4,         /* 16 */
    DIFFUZZ_BOOL = 6,           /* 8 */
    DIFFUZZ_FLOAT8_E4M3FN = 10, /* 8 */
    DIFFUZZ_FLOAT8_E5M2 = 12    /* 8 */
};

/* An array; field by field the DLTensor of DLPack, so that a pointer to one is a pointer to the other. */
typedef struct {
    void *data;
    struct { int32_t type, id; } device; /* 1, 0: the CPU */
    int32_t ndim;
    struct { uint8_t code, bits; uint16_t lanes; } dtype;
    int64_t *shape;
    int64_t *strides;     /* in elements */
    uint64_t byte_offset; /* of the first element from data; 0 in this version */
} diffuzz_tensor;

typedef struct {
    const char *name;
    diffuzz_tensor tensor;
} diffuzz_array;

typedef enum { DIFFUZZ_INTEGER = 1, DIFFUZZ_NUMBER = 2, DIFFUZZ_TEXT = 3 } diffuzz_kind;

/* A parameter. A truth value is an integer, 0 or 1; `number` is also that of an integer. */
typedef struct {
    const char *name;
    int32_t kind;
    int32_t reserved;
    int64_t integer;
    double number;
    const char *text;
} diffuzz_parameter;

typedef struct {
    uint32_t version; /* DIFFUZZ_ABI_VERSION of diffuzz */
    uint32_t reserved;
    const char *operation; /* the name of the target */
    int64_t input_count;
    const diffuzz_array *inputs;
    int64_t result_count;
    const diffuzz_array *results; /* result, or result_1, result_2 and so on */
    int64_t parameter_count;
    const diffuzz_parameter *parameters;
    char *message; /* for a text that ends with 0, UTF-8, where the function does not return 0 */
    int64_t message_size;
} diffuzz_call;

/* The input of that name; NULL if the call has none, as for an optional one that is absent. */
static inline const diffuzz_tensor *diffuzz_input(const diffuzz_call *call, const char *name) {
    for (int64_t i = 0; i < call->input_count; i++)
        if (!strcmp(call->inputs[i].name, name)) return &call->inputs[i].tensor;
    return NULL;
}

/* The result of that number, from 0 on; NULL if there is none. */
static inline const diffuzz_tensor *diffuzz_output(const diffuzz_call *call, int64_t number) {
    return number >= 0 && number < call->result_count ? &call->results[number].tensor : NULL;
}

/* The parameter of that name; NULL if the call has none. */
static inline const diffuzz_parameter *diffuzz_parameter_of(const diffuzz_call *call, const char *name) {
    for (int64_t i = 0; i < call->parameter_count; i++)
        if (!strcmp(call->parameters[i].name, name)) return &call->parameters[i];
    return NULL;
}

static inline double diffuzz_number(const diffuzz_call *call, const char *name, double otherwise) {
    const diffuzz_parameter *found = diffuzz_parameter_of(call, name);
    return found && found->kind != DIFFUZZ_TEXT ? found->number : otherwise;
}

static inline int64_t diffuzz_integer(const diffuzz_call *call, const char *name, int64_t otherwise) {
    const diffuzz_parameter *found = diffuzz_parameter_of(call, name);
    return found && found->kind == DIFFUZZ_INTEGER ? found->integer : otherwise;
}

static inline const char *diffuzz_text(const diffuzz_call *call, const char *name, const char *otherwise) {
    const diffuzz_parameter *found = diffuzz_parameter_of(call, name);
    return found && found->kind == DIFFUZZ_TEXT ? found->text : otherwise;
}

/* The size of a dimension; -1 counts from the last. */
static inline int64_t diffuzz_size(const diffuzz_tensor *tensor, int dimension) {
    return tensor->shape[dimension < 0 ? tensor->ndim + dimension : dimension];
}

/* The first element. */
static inline void *diffuzz_data(const diffuzz_tensor *tensor) {
    return (char *)tensor->data + tensor->byte_offset;
}

static inline const float *diffuzz_floats(const diffuzz_tensor *tensor) { return (const float *)diffuzz_data(tensor); }

/* Leaves a message, and gives what the function returns then: 1. */
static inline int diffuzz_fail(const diffuzz_call *call, const char *message) {
    snprintf(call->message, (size_t)call->message_size, "%s", message);
    return 1;
}

#endif
