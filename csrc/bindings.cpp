// The extension module aefast._C: argument checks, release of the GIL, choice of instruction set.
//
// It takes pointers, shapes and strides, never tensors: one build serves every torch version.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings_mlp.h"
#include "bindings_step.h"
#include "bindings_topk.h"
#include "cuda_kernel.h"
#include "dispatch.h"
#include "gibbs.h"
#include "kernels.h"
#include "pages.h"
#include "parallel.h"
#include "without_gil.h"

namespace py = pybind11;

namespace aefast {
namespace {

// Python's handlers, which run on its main thread alone; Ctrl-C's raises KeyboardInterrupt.
bool signal_handlers_raise() {
    py::gil_scoped_acquire acquire;
    return PyErr_CheckSignals() != 0;
}

// kernel(arguments) of the active instruction set's namespace.
#ifdef AEFAST_X86
#define AEFAST_DISPATCH(kernel, ...)                                    \
    without_gil([&] {                                                   \
        switch (active_instruction_set()) {                             \
            case InstructionSet::baseline:                              \
                return baseline::kernel(__VA_ARGS__);                   \
            case InstructionSet::avx2:                                  \
                return avx2::kernel(__VA_ARGS__);                       \
            default: /* AMX has kernels of its own for products only */ \
                return avx512::kernel(__VA_ARGS__);                     \
        }                                                               \
    })
#else
#define AEFAST_DISPATCH(kernel, ...) without_gil([&] { return baseline::kernel(__VA_ARGS__); })
#endif

// Whether gemm beats the product that torch's vendor library makes at this precision.
bool outpaces_vendor_gemm(Precision precision) {
    const InstructionSet set = active_instruction_set();
    if (set == InstructionSet::amx) return true;
    // Its bfloat16 product at "medium" needs AVX-512. Its float32 is fast on Intel's processors; on
    // AMD's it keeps to AVX2, where ours is 1.15 times as fast, and with AVX-512 twice.
    if (precision == Precision::medium && set == InstructionSet::avx512) return false;
    return set >= InstructionSet::avx2 && !is_intel_processor();
}

void check_block(int64_t rows, int64_t columns, int threads) {
    if (rows < 1 || columns < 1) throw std::invalid_argument("rows and columns must be positive");
    if (threads < 1) throw std::invalid_argument("threads must be positive");
}

void bind_process(py::module_& module) {
    module.def("enter_forked_child", &enter_forked_child);
    handle_signals_with(&signal_handlers_raise);
    py::register_exception_translator([](std::exception_ptr thrown) {
        try {
            std::rethrow_exception(thrown);
        } catch (const Interrupted&) {  // Python's exception is raised already
        }
    });
}

void bind_corrupt(py::module_& module) {
    py::enum_<Noise>(module, "Noise")
        .value("masking", Noise::masking)
        .value("salt_and_pepper", Noise::salt_and_pepper)
        .value("gaussian", Noise::gaussian);
    module.def(
        "corrupt",
        [](Noise noise, uintptr_t x, uintptr_t output, int64_t rows, int64_t columns,
           int64_t row_stride, int element_size, uint64_t seed, int64_t row_offset, uint32_t step,
           uint32_t level_threshold, uint32_t low_threshold, uint32_t low_bits, uint32_t high_bits,
           float level, int threads) {
            check_block(rows, columns, threads);
            if (element_size != 4 && (element_size != 2 || noise == Noise::gaussian)) {
                throw std::invalid_argument("element_size does not fit the kind of noise");
            }
            advise_huge_pages(pointer<void*>(output), rows * columns * element_size);
            AEFAST_DISPATCH(corrupt, noise,
                            {pointer<const void*>(x), pointer<void*>(output), rows, columns,
                             row_stride, element_size, seed, row_offset, step, level_threshold,
                             low_threshold, low_bits, high_bits, level, threads});
        },
        py::arg("noise"), py::arg("x"), py::arg("output"), py::arg("rows"), py::arg("columns"),
        py::arg("row_stride"), py::arg("element_size"), py::arg("seed"), py::arg("row_offset"),
        py::arg("step"), py::arg("level_threshold"), py::arg("low_threshold"), py::arg("low_bits"),
        py::arg("high_bits"), py::arg("level"), py::arg("threads"));
}

void bind_linear_act(py::module_& module) {
    py::enum_<Activation>(module, "Activation")
        .value("identity", Activation::identity)
        .value("relu", Activation::relu)
        .value("leaky_relu", Activation::leaky_relu)
        .value("sigmoid", Activation::sigmoid)
        .value("tanh", Activation::tanh)
        .value("softplus", Activation::softplus)
        .value("gelu", Activation::gelu)
        .value("silu", Activation::silu);
    py::enum_<ElementType>(module, "ElementType")
        .value("float32", ElementType::float32)
        .value("bfloat16", ElementType::bfloat16)
        .value("float16", ElementType::float16);
    module.def(
        "activate",
        [](uintptr_t values, ElementType element_type, int64_t count, Activation activation,
           int threads) {
            check_block(1, count, threads);
            AEFAST_DISPATCH(activate,
                            {pointer<void*>(values), element_type, count, activation, threads});
        },
        py::arg("values"), py::arg("element_type"), py::arg("count"), py::arg("activation"),
        py::arg("threads"));
    module.def(
        "activation_backward",
        [](uintptr_t gradient, int64_t gradient_row_stride, uintptr_t saved,
           uintptr_t grad_preactivation, uintptr_t grad_bias, uintptr_t partial_sums,
           ElementType element_type, int64_t rows, int64_t columns, Activation activation,
           int threads) {
            check_block(rows, columns, threads);
            AEFAST_DISPATCH(
                activation_backward,
                {pointer<const void*>(gradient), gradient_row_stride, pointer<const void*>(saved),
                 pointer<void*>(grad_preactivation), pointer<void*>(grad_bias),
                 pointer<double*>(partial_sums), element_type, rows, columns, activation, threads});
        },
        py::arg("gradient"), py::arg("gradient_row_stride"), py::arg("saved"),
        py::arg("grad_preactivation"), py::arg("grad_bias"), py::arg("partial_sums"),
        py::arg("element_type"), py::arg("rows"), py::arg("columns"), py::arg("activation"),
        py::arg("threads"));
    module.attr("ROWS_PER_PARTIAL_SUM") = kRowsPerPartialSum;
}

void bind_sparsity(py::module_& module) {
    module.def(
        "kl_sparsity",
        [](uintptr_t values, int64_t row_stride, uintptr_t partial_sums, ElementType element_type,
           int64_t rows, int64_t columns, double target, uintptr_t slope, int threads) {
            check_block(rows, columns, threads);
            const SparsityArguments code = {pointer<const void*>(values),
                                            row_stride,
                                            pointer<double*>(partial_sums),
                                            element_type,
                                            rows,
                                            columns,
                                            threads};
            return AEFAST_DISPATCH(kl_sparsity, code, target, pointer<float*>(slope));
        },
        py::arg("values"), py::arg("row_stride"), py::arg("partial_sums"), py::arg("element_type"),
        py::arg("rows"), py::arg("columns"), py::arg("target"), py::arg("slope"),
        py::arg("threads"));
    module.def(
        "l1_sparsity",
        [](uintptr_t values, int64_t row_stride, uintptr_t partial_sums, ElementType element_type,
           int64_t rows, int64_t columns, int threads) {
            check_block(rows, columns, threads);
            return AEFAST_DISPATCH(l1_sparsity, {pointer<const void*>(values), row_stride,
                                                 pointer<double*>(partial_sums), element_type, rows,
                                                 columns, threads});
        },
        py::arg("values"), py::arg("row_stride"), py::arg("partial_sums"), py::arg("element_type"),
        py::arg("rows"), py::arg("columns"), py::arg("threads"));
    module.def(
        "scaled_sign",
        [](uintptr_t values, int64_t row_stride, uintptr_t output, ElementType element_type,
           int64_t rows, int64_t columns, float factor, int threads) {
            check_block(rows, columns, threads);
            AEFAST_DISPATCH(scaled_sign,
                            {pointer<const void*>(values), row_stride, pointer<void*>(output),
                             element_type, rows, columns, factor, threads});
        },
        py::arg("values"), py::arg("row_stride"), py::arg("output"), py::arg("element_type"),
        py::arg("rows"), py::arg("columns"), py::arg("factor"), py::arg("threads"));
}

MatrixView view(uintptr_t data, int64_t rows, int64_t columns, int64_t row_stride,
                int64_t column_stride) {
    return {pointer<const float*>(data), rows, columns, row_stride, column_stride};
}

bool has_matrix_units() { return active_instruction_set() == InstructionSet::amx; }

void gemm(GemmArguments arguments) {
#ifdef AEFAST_AMX
    if (has_matrix_units()) {
        arguments.packed.bytes_per_column =
            amx::packed_bytes_per_column(arguments.right, arguments.precision);
        return without_gil([&] { amx::gemm(arguments); });
    }
#endif
    AEFAST_DISPATCH(gemm, arguments);
}

// What pack_tiles fills.
int64_t packed_bytes(int64_t rows, int64_t depth, Precision precision) {
#ifdef AEFAST_AMX
    if (has_matrix_units()) return amx::packed_bytes(view(0, rows, depth, 0, 0), precision);
#endif
    (void)rows, (void)depth, (void)precision;
    throw std::logic_error("there are no matrix units to pack for");
}

void pack_tiles(const MatrixView& right, Precision precision, uintptr_t packed, int threads) {
#ifdef AEFAST_AMX
    if (has_matrix_units()) {
        return without_gil(
            [&] { amx::pack_tiles(right, precision, pointer<unsigned char*>(packed), threads); });
    }
#endif
    (void)right, (void)precision, (void)packed, (void)threads;
    throw std::logic_error("there are no matrix units to pack for");
}

void bind_gemm(py::module_& module) {
    py::enum_<Precision>(module, "Precision")
        .value("highest", Precision::highest)
        .value("high", Precision::high)
        .value("medium", Precision::medium);
    module.def(
        "gemm",
        [](uintptr_t left, int64_t rows, int64_t depth, int64_t left_row_stride,
           int64_t left_column_stride, uintptr_t right, int64_t columns, int64_t right_depth,
           int64_t right_row_stride, int64_t right_column_stride, uintptr_t packed, uintptr_t bias,
           Activation activation, uintptr_t output, uintptr_t preactivation, bool accumulate,
           Precision precision, int threads) {
            check_block(rows, columns, threads);
            if (depth != right_depth) throw std::invalid_argument("the depths differ");
            if (!accumulate) advise_huge_pages(pointer<void*>(output), rows * columns * 4);
            gemm({view(left, rows, depth, left_row_stride, left_column_stride),
                  view(right, columns, depth, right_row_stride, right_column_stride),
                  {pointer<const unsigned char*>(packed), 0},
                  pointer<const float*>(bias),
                  activation,
                  pointer<float*>(output),
                  columns,
                  pointer<float*>(preactivation),
                  accumulate,
                  precision,
                  threads});
        },
        py::arg("left"), py::arg("rows"), py::arg("depth"), py::arg("left_row_stride"),
        py::arg("left_column_stride"), py::arg("right"), py::arg("columns"), py::arg("right_depth"),
        py::arg("right_row_stride"), py::arg("right_column_stride"), py::arg("packed"),
        py::arg("bias"), py::arg("activation"), py::arg("output"), py::arg("preactivation"),
        py::arg("accumulate"), py::arg("precision"), py::arg("threads"));
    module.def(
        "fingerprint",
        [](uintptr_t values, int64_t rows, int64_t columns, int threads) {
            check_block(rows, columns, threads);
            return AEFAST_DISPATCH(fingerprint, pointer<const float*>(values), rows, columns,
                                   threads);
        },
        py::arg("values"), py::arg("rows"), py::arg("columns"), py::arg("threads"));
    module.def("packed_bytes", &packed_bytes, py::arg("rows"), py::arg("depth"),
               py::arg("precision"));
    module.def(
        "pack_tiles",
        [](uintptr_t right, int64_t rows, int64_t depth, int64_t row_stride, int64_t column_stride,
           Precision precision, uintptr_t packed, int threads) {
            check_block(rows, depth, threads);
            pack_tiles(view(right, rows, depth, row_stride, column_stride), precision, packed,
                       threads);
        },
        py::arg("right"), py::arg("rows"), py::arg("depth"), py::arg("row_stride"),
        py::arg("column_stride"), py::arg("precision"), py::arg("packed"), py::arg("threads"));
    module.def("has_matrix_units", &has_matrix_units);
    module.def("outpaces_vendor_gemm", &outpaces_vendor_gemm, py::arg("precision"));
}

void bind_reconstruction(py::module_& module) {
    py::enum_<Loss>(module, "Loss")
        .value("mse", Loss::squared_error)
        .value("bce", Loss::cross_entropy);
    module.def(
        "compare",
        [](uintptr_t output, uintptr_t target, int64_t target_row_stride, uintptr_t grad_target,
           uintptr_t grad_bias, uintptr_t partial_sums, bool gradient_wanted, Loss loss,
           Activation output_activation, float scale, int64_t rows, int64_t columns, int threads) {
            check_block(rows, columns, threads);
            std::vector<double> losses(row_blocks(rows));
            return AEFAST_DISPATCH(
                compare, {pointer<float*>(output), pointer<const float*>(target), target_row_stride,
                          pointer<float*>(grad_target), pointer<float*>(grad_bias),
                          pointer<double*>(partial_sums), losses.data(), gradient_wanted, loss,
                          output_activation, scale, rows, columns, threads});
        },
        py::arg("output"), py::arg("target"), py::arg("target_row_stride"), py::arg("grad_target"),
        py::arg("grad_bias"), py::arg("partial_sums"), py::arg("gradient_wanted"), py::arg("loss"),
        py::arg("output_activation"), py::arg("scale"), py::arg("rows"), py::arg("columns"),
        py::arg("threads"));
}

void bind_jacobian(py::module_& module) {
    module.def(
        "slopes",
        [](uintptr_t saved, uintptr_t output, int64_t count, Activation activation, int threads) {
            check_block(1, count, threads);
            AEFAST_DISPATCH(slopes, {pointer<const float*>(saved), pointer<float*>(output), count,
                                     activation, threads});
        },
        py::arg("saved"), py::arg("output"), py::arg("count"), py::arg("activation"),
        py::arg("threads"));
    module.def(
        "contract",
        [](uintptr_t saved, uintptr_t squared_lengths, uintptr_t penalty, int64_t rows,
           int64_t columns, Activation activation, int threads) {
            check_block(rows, columns, threads);
            AEFAST_DISPATCH(contract,
                            {pointer<const float*>(saved), pointer<const float*>(squared_lengths),
                             pointer<float*>(penalty), rows, columns, activation, threads});
        },
        py::arg("saved"), py::arg("squared_lengths"), py::arg("penalty"), py::arg("rows"),
        py::arg("columns"), py::arg("activation"), py::arg("threads"));
    module.def(
        "slope_backward",
        [](uintptr_t saved, uintptr_t grad_code, int64_t grad_code_row_stride, uintptr_t grad_slope,
           uintptr_t grad_penalty, uintptr_t squared_lengths, uintptr_t grad_preactivation,
           uintptr_t grad_sums, int64_t rows, int64_t columns, Activation activation, int threads) {
            check_block(rows, columns, threads);
            std::vector<double> partial_sums(row_blocks(rows) * 2 * columns);
            AEFAST_DISPATCH(
                slope_backward,
                {pointer<const float*>(saved), pointer<const float*>(grad_code),
                 grad_code_row_stride, pointer<const float*>(grad_slope),
                 pointer<const float*>(grad_penalty), pointer<const float*>(squared_lengths),
                 pointer<float*>(grad_preactivation), pointer<float*>(grad_sums),
                 partial_sums.data(), rows, columns, activation, threads});
        },
        py::arg("saved"), py::arg("grad_code"), py::arg("grad_code_row_stride"),
        py::arg("grad_slope"), py::arg("grad_penalty"), py::arg("squared_lengths"),
        py::arg("grad_preactivation"), py::arg("grad_sums"), py::arg("rows"), py::arg("columns"),
        py::arg("activation"), py::arg("threads"));
    module.def(
        "expand",
        [](uintptr_t start, int64_t start_sample_stride, uintptr_t row_slope, uintptr_t slope,
           uintptr_t output, int64_t samples, int64_t rows, int64_t columns, int threads) {
            check_block(samples * rows, columns, threads);
            AEFAST_DISPATCH(expand, {pointer<const float*>(start), start_sample_stride,
                                     pointer<const float*>(row_slope), pointer<const float*>(slope),
                                     pointer<float*>(output), samples, rows, columns, threads});
        },
        py::arg("start"), py::arg("start_sample_stride"), py::arg("row_slope"), py::arg("slope"),
        py::arg("output"), py::arg("samples"), py::arg("rows"), py::arg("columns"),
        py::arg("threads"));
    module.def(
        "expand_backward",
        [](uintptr_t grad, uintptr_t start, int64_t start_sample_stride, uintptr_t row_slope,
           uintptr_t slope, uintptr_t grad_row_slope, uintptr_t grad_slope_parts,
           uintptr_t grad_start, bool accumulate, int64_t samples, int64_t rows, int64_t columns,
           int threads) {
            check_block(samples * rows, columns, threads);
            AEFAST_DISPATCH(
                expand_backward,
                {pointer<const float*>(grad), pointer<const float*>(start), start_sample_stride,
                 pointer<const float*>(row_slope), pointer<const float*>(slope),
                 pointer<float*>(grad_row_slope), pointer<float*>(grad_slope_parts),
                 pointer<float*>(grad_start), accumulate, samples, rows, columns, threads});
        },
        py::arg("grad"), py::arg("start"), py::arg("start_sample_stride"), py::arg("row_slope"),
        py::arg("slope"), py::arg("grad_row_slope"), py::arg("grad_slope_parts"),
        py::arg("grad_start"), py::arg("accumulate"), py::arg("samples"), py::arg("rows"),
        py::arg("columns"), py::arg("threads"));
    module.def(
        "dot_rows",
        [](uintptr_t left, int64_t left_row_stride, uintptr_t right, int64_t right_row_stride,
           uintptr_t totals, int64_t rows, int64_t columns, int threads) {
            check_block(rows, columns, threads);
            AEFAST_DISPATCH(dot_rows, {pointer<const float*>(left), left_row_stride,
                                       pointer<const float*>(right), right_row_stride,
                                       pointer<float*>(totals), rows, columns, threads});
        },
        py::arg("left"), py::arg("left_row_stride"), py::arg("right"), py::arg("right_row_stride"),
        py::arg("totals"), py::arg("rows"), py::arg("columns"), py::arg("threads"));
}

void bind_gibbs(py::module_& module) {
    module.def(
        "draw",
        [](uintptr_t values, uintptr_t means, uintptr_t deviations, uintptr_t beta, int64_t rows,
           int64_t columns, uint64_t seed, int64_t row_offset, uint32_t step, int threads) {
            check_block(rows, columns, threads);
            AEFAST_DISPATCH(draw, {pointer<float*>(values), pointer<float*>(means),
                                   pointer<const float*>(deviations), pointer<const float*>(beta),
                                   rows, columns, seed, row_offset, step, threads});
        },
        py::arg("values"), py::arg("means"), py::arg("deviations"), py::arg("beta"),
        py::arg("rows"), py::arg("columns"), py::arg("seed"), py::arg("row_offset"),
        py::arg("step"), py::arg("threads"));
    module.def(
        "draw_bits",
        [](const BinaryView& left, uintptr_t right, int64_t right_row_stride,
           int64_t right_column_stride, int64_t columns, uintptr_t bias, uintptr_t beta,
           uintptr_t words, uintptr_t means, uint64_t seed, int64_t row_offset, uint32_t step,
           int threads) {
            check_block(left.rows, columns, threads);
            AEFAST_DISPATCH(
                draw_bits,
                {left, view(right, columns, left.columns, right_row_stride, right_column_stride),
                 pointer<const float*>(bias), pointer<const float*>(beta),
                 pointer<uint64_t*>(words), pointer<float*>(means), seed, row_offset, step,
                 threads});
        },
        py::arg("left"), py::arg("right"), py::arg("right_row_stride"),
        py::arg("right_column_stride"), py::arg("columns"), py::arg("bias"), py::arg("beta"),
        py::arg("words"), py::arg("means"), py::arg("seed"), py::arg("row_offset"), py::arg("step"),
        py::arg("threads"));
    module.def(
        "measure_phase",
        [](uintptr_t values, uintptr_t sums, float scale, int64_t rows, int64_t columns,
           int threads) {
            check_block(rows, columns, threads);
            std::vector<double> energies(row_blocks(rows));
            std::vector<double> partial_sums(row_blocks(rows) * columns);
            return AEFAST_DISPATCH(measure_phase,
                                   {pointer<float*>(values), energies.data(), pointer<float*>(sums),
                                    partial_sums.data(), scale, rows, columns, threads});
        },
        py::arg("values"), py::arg("sums"), py::arg("scale"), py::arg("rows"), py::arg("columns"),
        py::arg("threads"));
}

void bind_binary(py::module_& module) {
    py::class_<BinaryView>(module, "BinaryView")
        .def(py::init([](uintptr_t words, int64_t rows, int64_t columns) {
                 check_block(rows, columns, 1);
                 return BinaryView{pointer<const uint64_t*>(words), rows, columns};
             }),
             py::arg("words"), py::arg("rows"), py::arg("columns"));
    module.def(
        "pack_bits",
        [](uintptr_t values, int64_t row_stride, uintptr_t words, uintptr_t is_binary, int64_t rows,
           int64_t columns, int threads) {
            check_block(rows, columns, threads);
            AEFAST_DISPATCH(pack_bits,
                            {pointer<const float*>(values), row_stride, pointer<uint64_t*>(words),
                             pointer<bool*>(is_binary), rows, columns, threads});
        },
        py::arg("values"), py::arg("row_stride"), py::arg("words"), py::arg("is_binary"),
        py::arg("rows"), py::arg("columns"), py::arg("threads"));
    module.def(
        "unpack_bits",
        [](const BinaryView& bits, uintptr_t values, int threads) {
            check_block(bits.rows, bits.columns, threads);
            AEFAST_DISPATCH(unpack_bits, {bits, pointer<float*>(values), threads});
        },
        py::arg("bits"), py::arg("values"), py::arg("threads"));
    module.def(
        "transpose_bits",
        [](const BinaryView& bits, uintptr_t words, uintptr_t counts, int threads) {
            check_block(bits.rows, bits.columns, threads);
            AEFAST_DISPATCH(transpose_bits,
                            {bits, pointer<uint64_t*>(words), pointer<float*>(counts), threads});
        },
        py::arg("bits"), py::arg("words"), py::arg("counts"), py::arg("threads"));
    module.def(
        "binary_product",
        [](const BinaryView& left, uintptr_t right, int64_t right_row_stride,
           int64_t right_column_stride, int64_t columns, uintptr_t bias, uintptr_t output,
           int threads) {
            check_block(left.rows, columns, threads);
            AEFAST_DISPATCH(
                binary_product,
                {left, view(right, columns, left.columns, right_row_stride, right_column_stride),
                 pointer<const float*>(bias), pointer<float*>(output), threads});
        },
        py::arg("left"), py::arg("right"), py::arg("right_row_stride"),
        py::arg("right_column_stride"), py::arg("columns"), py::arg("bias"), py::arg("output"),
        py::arg("threads"));
    module.def(
        "transposed_binary_product",
        [](const BinaryView& left, uintptr_t right, int64_t right_row_stride,
           int64_t right_column_stride, int64_t columns, uintptr_t output, bool accumulate,
           int threads) {
            check_block(left.rows, columns, threads);
            AEFAST_DISPATCH(
                transposed_binary_product,
                {left, view(right, columns, left.columns, right_row_stride, right_column_stride),
                 pointer<float*>(output), accumulate, threads});
        },
        py::arg("left"), py::arg("right"), py::arg("right_row_stride"),
        py::arg("right_column_stride"), py::arg("columns"), py::arg("output"),
        py::arg("accumulate"), py::arg("threads"));
}

void bind_gaussian(py::module_& module) {
    py::class_<SampleView>(module, "SampleView")
        .def(py::init([](uintptr_t data, int64_t rows, int64_t sample_stride, int64_t row_stride) {
                 check_block(rows, 1, 1);
                 return SampleView{pointer<const void*>(data), rows, sample_stride, row_stride};
             }),
             py::arg("data"), py::arg("rows"), py::arg("sample_stride"), py::arg("row_stride"));
    py::enum_<NoiseUse>(module, "NoiseUse")
        .value("add", NoiseUse::add)
        .value("multiply", NoiseUse::multiply);
    module.def(
        "scaled_noise",
        [](NoiseUse use, const SampleView& operand, const SampleView& log_var, uintptr_t output,
           ElementType element_type, int64_t rows, int64_t columns, float scale, uint64_t seed,
           int64_t row_offset, uint32_t step, int threads) {
            check_block(rows, columns, threads);
            advise_huge_pages(pointer<void*>(output), rows * columns * size_of(element_type));
            AEFAST_DISPATCH(scaled_noise, use,
                            {operand, log_var, pointer<void*>(output), element_type, rows, columns,
                             scale, seed, row_offset, step, threads});
        },
        py::arg("use"), py::arg("operand"), py::arg("log_var"), py::arg("output"),
        py::arg("element_type"), py::arg("rows"), py::arg("columns"), py::arg("scale"),
        py::arg("seed"), py::arg("row_offset"), py::arg("step"), py::arg("threads"));
    module.def(
        "gaussian_kl",
        [](const SampleView& mean, const SampleView& log_var, uintptr_t divergence,
           ElementType element_type, int64_t rows, int64_t columns, int threads) {
            check_block(rows, columns, threads);
            AEFAST_DISPATCH(gaussian_kl, {mean, log_var, pointer<void*>(divergence), element_type,
                                          rows, columns, threads});
        },
        py::arg("mean"), py::arg("log_var"), py::arg("divergence"), py::arg("element_type"),
        py::arg("rows"), py::arg("columns"), py::arg("threads"));
    module.def(
        "gaussian_kl_backward",
        [](uintptr_t grad, const SampleView& mean, const SampleView& log_var, uintptr_t grad_mean,
           uintptr_t grad_log_var, ElementType element_type, int64_t rows, int64_t columns,
           int threads) {
            check_block(rows, columns, threads);
            for (uintptr_t output : {grad_mean, grad_log_var})
                advise_huge_pages(pointer<void*>(output), rows * columns * size_of(element_type));
            AEFAST_DISPATCH(gaussian_kl_backward,
                            {pointer<const void*>(grad), mean, log_var, pointer<void*>(grad_mean),
                             pointer<void*>(grad_log_var), element_type, rows, columns, threads});
        },
        py::arg("grad"), py::arg("mean"), py::arg("log_var"), py::arg("grad_mean"),
        py::arg("grad_log_var"), py::arg("element_type"), py::arg("rows"), py::arg("columns"),
        py::arg("threads"));
}

void bind_sparse_coding(py::module_& module) {
    module.def(
        "soft_threshold",
        [](uintptr_t x, uintptr_t output, ElementType element_type, int64_t count, float threshold,
           int threads) {
            check_block(1, count, threads);
            AEFAST_DISPATCH(soft_threshold, {pointer<const void*>(x), pointer<void*>(output),
                                             element_type, count, threshold, threads});
        },
        py::arg("x"), py::arg("output"), py::arg("element_type"), py::arg("count"),
        py::arg("threshold"), py::arg("threads"));
    module.def(
        "soft_threshold_backward",
        [](uintptr_t gradient, uintptr_t x, uintptr_t grad_x, ElementType element_type,
           int64_t count, float threshold, int threads) {
            check_block(1, count, threads);
            AEFAST_DISPATCH(soft_threshold_backward,
                            {pointer<const void*>(gradient), pointer<const void*>(x),
                             pointer<void*>(grad_x), element_type, count, threshold, threads});
        },
        py::arg("gradient"), py::arg("x"), py::arg("grad_x"), py::arg("element_type"),
        py::arg("count"), py::arg("threshold"), py::arg("threads"));
    module.def(
        "sparse_encode",
        [](uintptr_t correlations, uintptr_t energies, uintptr_t gram, uintptr_t codes,
           int64_t rows, int64_t atoms, float curvature, float penalty, double tolerance,
           int64_t steps, int threads) {
            check_block(rows, atoms, threads);
            AEFAST_DISPATCH(sparse_encode,
                            {pointer<const float*>(correlations), pointer<const float*>(energies),
                             pointer<const float*>(gram), pointer<float*>(codes), rows, atoms,
                             curvature, penalty, tolerance, steps, threads});
        },
        py::arg("correlations"), py::arg("energies"), py::arg("gram"), py::arg("codes"),
        py::arg("rows"), py::arg("atoms"), py::arg("curvature"), py::arg("penalty"),
        py::arg("tolerance"), py::arg("steps"), py::arg("threads"));
    module.attr("ATOM_LANES") = kAtomLanes;
}

BlockLayout block_layout(const py::dict& entry) {
    return {entry["swizzle"].cast<int>(), entry["elem_size"].cast<int>(),
            entry["elem_type"].cast<int>(), entry["block_size"].cast<std::vector<uint32_t>>()};
}

void bind_cuda(py::module_& module) {
    const auto error = py::register_exception<CudaError>(module, "CudaError", PyExc_RuntimeError);
    py::register_exception<CudaLoadError>(module, "CudaLoadError", error);
    py::class_<CudaKernel>(module, "CudaKernel")
        .def(py::init([](const py::bytes& image, const std::string& symbol, int warps, int shared,
                         const std::vector<std::string>& arguments,
                         const std::vector<py::dict>& descriptors) {
                 if (warps < 1 || warps > 32)
                     throw std::invalid_argument("warps is " + std::to_string(warps) +
                                                 "; it takes a number from 1 to 32");
                 if (shared < 0)
                     throw std::invalid_argument("shared is " + std::to_string(shared) +
                                                 "; it takes a number of bytes");
                 std::vector<BlockLayout> layouts;
                 for (const py::dict& entry : descriptors) layouts.push_back(block_layout(entry));
                 return std::make_unique<CudaKernel>(image, symbol, warps, shared, arguments,
                                                     std::move(layouts));
             }),
             py::arg("image"), py::arg("symbol"), py::arg("warps"), py::arg("shared"),
             py::arg("arguments"), py::arg("descriptors"))
        .def("launch", &CudaKernel::launch, py::arg("programs"), py::arg("stream"),
             py::arg("device"), py::arg("arguments"));
}

InstructionSet instruction_set_named(const std::string& wanted) {
    for (auto set : {InstructionSet::baseline, InstructionSet::avx2, InstructionSet::avx512,
                     InstructionSet::amx}) {
        if (wanted == name(set)) return set;
    }
    throw std::invalid_argument("instruction set is '" + wanted +
                                "'; it takes one of baseline, avx2, avx512, amx");
}

void bind_instruction_sets(py::module_& module) {
    module.def("instruction_set", [] { return name(active_instruction_set()); });
    module.def("detected_features", &detected_features);
    module.def(
        "cap_instruction_set",
        [](const std::string& cap) { cap_instruction_set(instruction_set_named(cap)); },
        py::arg("cap"));
}

}  // namespace
}  // namespace aefast

PYBIND11_MODULE(_C, module) {
    aefast::bind_process(module);
    aefast::bind_instruction_sets(module);
    aefast::bind_corrupt(module);
    aefast::bind_linear_act(module);
    aefast::bind_sparsity(module);
    aefast::bind_gemm(module);
    aefast::bind_reconstruction(module);
    aefast::bind_jacobian(module);
    aefast::bind_binary(module);
    aefast::bind_gibbs(module);
    aefast::bind_gaussian(module);
    aefast::bind_sparse_coding(module);
    aefast::bind_step(module);
    aefast::bind_mlp(module);
    aefast::bind_topk(module);
    aefast::bind_cuda(module);
}
