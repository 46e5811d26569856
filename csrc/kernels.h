// The kernels that are compiled once per instruction set: their arguments and declarations.
#pragma once

#include <cstdint>

#include "activation.h"
#include "binary_view.h"
#include "element.h"
#include "gemm.h"
#include "isa.h"
#include "row_sums.h"

namespace aefast {

enum class Noise { masking, salt_and_pepper, gaussian };

// x and output are [rows, columns]; x's rows lie row_stride elements apart, output's are dense.
struct CorruptArguments {
    const void* x;
    void* output;
    int64_t rows, columns, row_stride;
    int element_size;  // bytes: 4 (float32), or 2 (masking and salt and pepper only)
    uint64_t seed;
    int64_t row_offset;
    uint32_t step;
    uint32_t level_threshold;  // an element is touched where word >> 8 is below this
    uint32_t low_threshold;    // salt and pepper: it becomes `low` below this, else `high`
    uint32_t low_bits, high_bits;
    float level;  // gaussian: the standard deviation
    int threads;
};

// values = act(values), in place.
struct ActivateArguments {
    void* values;
    ElementType element_type;
    int64_t count;
    Activation activation;
    int threads;
};

// gradient is [rows, columns], its rows gradient_row_stride elements apart; saved and
// grad_preactivation are dense. grad_bias is [columns], or null; partial_sums holds
// columns doubles for each block of kRowsPerPartialSum rows.
struct ActivationBackwardArguments {
    const void* gradient;
    int64_t gradient_row_stride;
    const void* saved;
    void* grad_preactivation;
    void* grad_bias;
    double* partial_sums;
    ElementType element_type;
    int64_t rows, columns;
    Activation activation;
    int threads;
};

// A code [rows, columns]; partial_sums holds columns doubles for each block of kRowsPerPartialSum
// rows.
struct SparsityArguments {
    const void* values;
    int64_t row_stride;
    double* partial_sums;
    ElementType element_type;
    int64_t rows, columns;
    int threads;
};

// output = factor * sign(values); dense.
struct ScaledSignArguments {
    const void* values;
    int64_t row_stride;
    void* output;
    ElementType element_type;
    int64_t rows, columns;
    float factor;
    int threads;
};

enum class Loss { squared_error, cross_entropy };

// output is z, [rows, columns], and becomes the gradient by z where that is wanted. The target's
// rows lie target_row_stride elements apart; grad_target is dense, or null. grad_bias is [columns],
// or null; partial_sums then holds columns doubles for each block of kRowsPerPartialSum rows.
// losses holds one double a block.
struct CompareArguments {
    float* output;
    const float* target;
    int64_t target_row_stride;
    float* grad_target;
    float* grad_bias;
    double* partial_sums;
    double* losses;
    bool gradient_wanted;
    Loss loss;
    Activation output_activation;
    float scale;  // of the gradients, not of the loss
    int64_t rows, columns;
    int threads;
};

// output = act', count elements of it, from what activation_backward() reads.
struct SlopesArguments {
    const float* saved;
    float* output;
    int64_t count;
    Activation activation;
    int threads;
};

// The penalty of one layer, sum_j act'_j^2 squared_lengths_j: saved is [rows, columns],
// squared_lengths [columns], penalty [rows].
struct ContractArguments {
    const float* saved;
    const float* squared_lengths;
    float* penalty;
    int64_t rows, columns;
    Activation activation;
    int threads;
};

// grad_preactivation = grad_slope act'' + grad_code act', all [rows, columns]; grad_code's rows lie
// grad_code_row_stride elements apart, or it is null. Where grad_slope is null it is that of the
// penalty, 2 grad_penalty act' squared_lengths. grad_sums is [2, columns]: the sum of
// grad_preactivation over the rows, and the penalty's gradient by squared_lengths; partial_sums
// holds as many doubles for each block of kRowsPerPartialSum rows.
struct SlopeBackwardArguments {
    const float* saved;
    const float* grad_code;
    int64_t grad_code_row_stride;
    const float* grad_slope;
    const float* grad_penalty;
    const float* squared_lengths;
    float* grad_preactivation;
    float* grad_sums;
    double* partial_sums;
    int64_t rows, columns;
    Activation activation;
    int threads;
};

// output = row_slope start slope: output is [samples, rows, columns], row_slope [samples, rows] or
// null, slope [samples, columns]; start's samples lie start_sample_stride elements apart, 0 for one
// that all share.
struct ExpandArguments {
    const float* start;
    int64_t start_sample_stride;
    const float* row_slope;
    const float* slope;
    float* output;
    int64_t samples, rows, columns;
    int threads;
};

// Its gradients. grad_start lies as start does, and may be grad; with accumulate it is added to.
// grad_slope_parts is [samples, blocks of kRowsPerPartialSum rows, columns].
struct ExpandBackwardArguments {
    const float* grad;
    const float* start;
    int64_t start_sample_stride;
    const float* row_slope;
    const float* slope;
    float* grad_row_slope;
    float* grad_slope_parts;
    float* grad_start;
    bool accumulate;
    int64_t samples, rows, columns;
    int threads;
};

// totals[row] += the inner product of two rows.
struct DotRowsArguments {
    const float* left;
    int64_t left_row_stride;
    const float* right;
    int64_t right_row_stride;
    float* totals;
    int64_t rows, columns;
    int threads;
};

// Half a step of Gibbs sampling: values [rows, columns] are the units' inputs and become Bernoulli
// states, 1 where the uniform is below sigmoid(beta value); or they are means and become Gaussian
// states, beta deviation normal added to them. beta is [rows] or null for 1; deviations [columns],
// null for Bernoulli units; means [rows, columns] takes the probabilities or means, or is null.
struct DrawArguments {
    float* values;
    float* means;
    const float* deviations;
    const float* beta;
    int64_t rows, columns;
    uint64_t seed;
    int64_t row_offset;
    uint32_t step;
    int threads;
};

// The same from binary states: left [rows, K] and right [columns, K], whose product and bias
// [columns] are the Bernoulli units' inputs. words, all 0 at first, takes the states, as bits.
struct DrawBitsArguments {
    BinaryView left;
    MatrixView right;
    const float* bias;
    const float* beta;
    uint64_t* words;
    float* means;
    uint64_t seed;
    int64_t row_offset;
    uint32_t step;
    int threads;
};

// Rows that may be several samples of the same ones: sample_stride and row_stride are in elements,
// 0 for what all samples or rows share.
struct SampleView {
    const void* data;
    int64_t rows;  // a sample
    int64_t sample_stride, row_stride;
};

enum class NoiseUse { add, multiply };

// output = operand + e^(log_var / 2) noise, or operand scale e^(log_var / 2) noise. rows counts
// those of all samples; output [rows, columns] is dense.
struct ScaledNoiseArguments {
    SampleView operand, log_var;
    void* output;
    ElementType element_type;
    int64_t rows, columns;
    float scale;
    uint64_t seed;
    int64_t row_offset;
    uint32_t step;
    int threads;
};

// divergence [rows] = 1/2 sum_j (mean_j^2 + e^log_var_j - 1 - log_var_j).
struct GaussianKLArguments {
    SampleView mean, log_var;
    void* divergence;
    ElementType element_type;
    int64_t rows, columns;
    int threads;
};

// Its gradients, dense: grad [rows] times the mean, and times (e^log_var - 1) / 2.
struct GaussianKLBackwardArguments {
    const void* grad;
    SampleView mean, log_var;
    void* grad_mean;
    void* grad_log_var;
    ElementType element_type;
    int64_t rows, columns;
    int threads;
};

// words = the bits of values > 0; is_binary [rows] tells whether a row is of zeros and ones.
struct PackBitsArguments {
    const float* values;
    int64_t row_stride;
    uint64_t* words;
    bool* is_binary;
    int64_t rows, columns;
    int threads;
};

// values [rows, columns] = 0 and 1.
struct UnpackBitsArguments {
    BinaryView bits;
    float* values;
    int threads;
};

// words = the transpose, [columns, rows]; counts [columns], how many of a column's bits are set.
struct TransposeBitsArguments {
    BinaryView bits;
    uint64_t* words;
    float* counts;
    int threads;
};

// output [rows, columns] = left [rows, K] right^T [K, columns] + bias [columns], or null for none.
struct BinaryProductArguments {
    BinaryView left;
    MatrixView right;
    const float* bias;
    float* output;
    int threads;
};

// output [columns, rows] = its transpose, or += with accumulate.
struct TransposedBinaryProductArguments {
    BinaryView left;
    MatrixView right;
    float* output;
    bool accumulate;
    int threads;
};

// output = sign(x) max(|x| - threshold, 0), count elements of it.
struct SoftThresholdArguments {
    const void* x;
    void* output;
    ElementType element_type;
    int64_t count;
    float threshold;
    int threads;
};

// grad_x = gradient where |x| > threshold, else 0.
struct SoftThresholdBackwardArguments {
    const void* gradient;
    const void* x;
    void* grad_x;
    ElementType element_type;
    int64_t count;
    float threshold;
    int threads;
};

// codes [rows, atoms], the minimizers of 1/2 |x - z D|^2 + penalty |z|_1; on entry what the steps
// start from. correlations = x D^T [rows, atoms], energies = |x|^2 [rows]; gram = D D^T
// [atoms, atoms], its rows filled up with zeros to a multiple of kAtomLanes. A row ends where its
// duality gap is at most tolerance energy / 2, or after so many steps.
struct SparseEncodeArguments {
    const float* correlations;
    const float* energies;
    const float* gram;
    float* codes;
    int64_t rows, atoms;
    float curvature;  // the largest of gram's diagonal
    float penalty;
    double tolerance;
    int64_t steps;
    int threads;
};

constexpr int64_t kAtomLanes = 16;

// The k largest of each row's pre-activations x weight^T + bias, the largest first, NaN above all,
// of equal ones the lower latent first. values and indices are [rows, k], bias [latents] or null.
struct TopKEncodeArguments {
    MatrixView x;       // [rows, K]
    MatrixView weight;  // [latents, K]
    const float* bias;
    int64_t k;
    float* values;
    int64_t* indices;
    void (*multiply)(const GemmArguments&);  // of one thread
    Precision precision;
    int threads;
};

// k latents of each row and their values, both [rows, k].
struct SparseCode {
    const float* values;
    const int64_t* indices;
    int64_t rows, k;
};

// output [rows, columns] = bias + the sum over a row's latents of value * weight[latent].
struct SparseDecodeArguments {
    SparseCode code;
    const float* weight;
    int64_t weight_row_stride;
    const float* bias;  // [columns], or null
    float* output;
    int64_t columns;
    int threads;
};

// products [rows, k] = left [rows, columns] times the rows of weight that indices [rows, k] name.
struct SampledProductArguments {
    const float* left;
    int64_t left_row_stride;
    const float* weight;
    int64_t weight_row_stride;
    const int64_t* indices;
    float* products;
    int64_t rows, k, columns;
    int threads;
};

// sums [latents, columns] = the sum of value * row over those of the code's rows where a latent is
// active, and totals [latents] that of the values.
struct LatentSumsArguments {
    SparseCode code;
    const float* rows;  // [rows, columns]
    int64_t row_stride;
    float* sums;
    float* totals;
    int64_t latents, columns;
    int threads;
};

#define AEFAST_DECLARE_KERNELS(isa)                                                        \
    namespace isa {                                                                        \
    void corrupt(Noise noise, const CorruptArguments&);                                    \
    void activate(const ActivateArguments&);                                               \
    void activation_backward(const ActivationBackwardArguments&);                          \
    double kl_sparsity(const SparsityArguments&, double target, float* slope);             \
    double l1_sparsity(const SparsityArguments&);                                          \
    void scaled_sign(const ScaledSignArguments&);                                          \
    double compare(const CompareArguments&);                                               \
    void slopes(const SlopesArguments&);                                                   \
    void contract(const ContractArguments&);                                               \
    void slope_backward(const SlopeBackwardArguments&);                                    \
    void expand(const ExpandArguments&);                                                   \
    void expand_backward(const ExpandBackwardArguments&);                                  \
    void dot_rows(const DotRowsArguments&);                                                \
    void draw(const DrawArguments&);                                                       \
    void draw_bits(const DrawBitsArguments&);                                              \
    void scaled_noise(NoiseUse use, const ScaledNoiseArguments&);                          \
    void gaussian_kl(const GaussianKLArguments&);                                          \
    void gaussian_kl_backward(const GaussianKLBackwardArguments&);                         \
    void pack_bits(const PackBitsArguments&);                                              \
    void unpack_bits(const UnpackBitsArguments&);                                          \
    void transpose_bits(const TransposeBitsArguments&);                                    \
    void binary_product(const BinaryProductArguments&);                                    \
    void transposed_binary_product(const TransposedBinaryProductArguments&);               \
    void soft_threshold(const SoftThresholdArguments&);                                    \
    void soft_threshold_backward(const SoftThresholdBackwardArguments&);                   \
    void sparse_encode(const SparseEncodeArguments&);                                      \
    void topk_encode(const TopKEncodeArguments&);                                          \
    void sparse_decode(const SparseDecodeArguments&);                                      \
    void sampled_product(const SampledProductArguments&);                                  \
    void latent_sums(const LatentSumsArguments&);                                          \
    uint64_t fingerprint(const float* values, int64_t rows, int64_t columns, int threads); \
    void gemm(const GemmArguments&);                                                       \
    }
AEFAST_DECLARE_KERNELS(baseline)
#ifdef AEFAST_X86
AEFAST_DECLARE_KERNELS(avx2)
AEFAST_DECLARE_KERNELS(avx512)
#endif
#ifdef AEFAST_AMX
namespace amx {
void gemm(const GemmArguments&);
int64_t packed_bytes_per_column(const MatrixView& right, Precision precision);
int64_t packed_bytes(const MatrixView& right, Precision precision);
void pack_tiles(const MatrixView& right, Precision precision, unsigned char* packed, int threads);
}  // namespace amx
#endif

}  // namespace aefast
