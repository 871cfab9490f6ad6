/* softmax of each row, in C.
 *
 *   cc -O2 -shared -fPIC -I"$(python -m diffuzz include)" softmax.c -o softmax.so -lm
 *   python -m diffuzz search --target softmax --candidate softmax.so:soft_max
 */
#include <diffuzz.h>
#include <math.h>

DIFFUZZ_LIBRARY

DIFFUZZ_FUNCTION(soft_max) {
    const diffuzz_tensor *input = diffuzz_input(call, "z"), *output = diffuzz_output(call, 0);
    int64_t rows = diffuzz_size(input, 0), n = diffuzz_size(input, 1);
    for (int64_t row = 0; row < rows; row++) {
        const float *z = diffuzz_floats(input) + row * n;
        float *p = (float *)diffuzz_data(output) + row * n, largest = z[0];
        double sum = 0;
        for (int64_t i = 1; i < n; i++) largest = fmaxf(largest, z[i]);
        for (int64_t i = 0; i < n; i++) sum += p[i] = expf(z[i] - largest);
        for (int64_t i = 0; i < n; i++) p[i] = (float)(p[i] / sum);
    }
    return 0;
}
