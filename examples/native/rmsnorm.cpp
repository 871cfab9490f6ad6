// rmsnorm of each row, in C++.
//
//   c++ -std=c++17 -O2 -shared -fPIC -I"$(python -m diffuzz include)" rmsnorm.cpp -o rmsnorm.so
//   python -m diffuzz search --target rmsnorm --candidate rmsnorm.so:rms_norm
#include <diffuzz.h>

#include <cmath>

DIFFUZZ_LIBRARY

DIFFUZZ_FUNCTION(rms_norm) {
    const diffuzz_tensor *input = diffuzz_input(call, "x"), *output = diffuzz_output(call, 0);
    const int64_t rows = diffuzz_size(input, 0), n = diffuzz_size(input, -1);
    const auto eps = diffuzz_number(call, "eps", -1.0);
    if (eps < 0) return diffuzz_fail(call, "it needs an eps");
    for (int64_t row = 0; row < rows; row++) {
        const float *x = diffuzz_floats(input) + row * n;
        auto *y = static_cast<float *>(diffuzz_data(output)) + row * n;
        double squares = 0;
        for (int64_t i = 0; i < n; i++) squares += double(x[i]) * x[i];
        const double scale = 1 / std::sqrt(squares / n + eps);
        for (int64_t i = 0; i < n; i++) y[i] = float(x[i] * scale);
    }
    return 0;
}
