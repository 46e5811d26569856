// A training step as one call: an encoder-decoder's loss and all its gradients.
#pragma once

#include <cstdint>
#include <vector>

#include "gemm/gemm.h"
#include "ops/corrupt/corrupt.h"
#include "shared/crew.h"

namespace aefast {

// Where the largest product has fewer multiplications than this, a second thread saves little, and
// takes half of the speed where another program wants its core. Just below, it saved a tenth of the
// time (200-50, 128 rows), just above a quarter (784-64, 32 rows; Xeon with AVX-512). Threads that
// stay for many steps save a third there (Zen 4).
constexpr int64_t kFewestProducts = 3 << 19, kFewestProductsOfCrew = 1 << 20;

// A parameter of fewer elements is updated before a second thread has woken. One of more is worth a
// crew, also for steps on few rows: one thread took 1.2 times plain PyTorch's time for 1 row of
// 784-1024.
constexpr int64_t kFewestUpdated = 1 << 17;

// Batch normalization of what a layer's activation is applied to, or of what that gives. Numbers
// are of the plan's parameters, -1 for none. The running statistics are parameters whose
// "gradients" are the batch's mean and unbiased variance.
struct StepNorm {
    bool is_on;
    bool follows_activation;
    int scale, shift;
    int mean, variance;
    double epsilon;
};

// Dropout of a layer's units, whose draws are the layer's own child of the step's seed.
struct StepDropout {
    float level;         // the probability; 0 for none
    uint32_t threshold;  // a unit is dropped where word >> 8 is below this
    uint32_t step;       // that it is drawn at
};

// act(x W^T + b), or act(x W + b) where the layer is tied to another one's weight [inputs,
// outputs]; then dropout. The posterior's log variance may have a weight and bias of its own: the
// layer's are then the mean's, and each gives half of the outputs.
struct StepLayer {
    int64_t inputs, outputs;
    Activation activation;
    int weight;    // which of the plan's parameters it is
    int bias;      // -1 for none
    bool is_tied;  // multiply with the weight as it stands, not with its transpose
    int log_var_weight, log_var_bias;
    StepNorm norm;
    StepDropout dropout;
};

// What the input gets: nothing, or corrupt()'s noise.
struct StepNoise {
    bool is_on;
    Noise kind;
    uint32_t step;
    uint32_t level_threshold, low_threshold;
    float level;
};

// What lies between the code and the decoder. `posterior`: the encoder's last layer gives a mean
// and a log variance, [rows, 2 latent], and the decoder gets a sample of that Gaussian.
enum class CodeStage { plain, dropout, gaussian, posterior };
enum class CodePenalty { none, kl, l1, contraction };

// The errors are means over all elements, the likelihoods sums over a row and means over the rows.
enum class Objective { squared_error, cross_entropy, bernoulli_likelihood, gaussian_likelihood };

struct StepPlan {
    std::vector<StepLayer> encoder, decoder;
    StepNoise noise;
    CodeStage code_stage;
    float code_level;         // dropout: its probability; gaussian: the standard deviation
    uint32_t code_threshold;  // dropout: an element is dropped where word >> 8 is below this
    uint32_t code_step;       // that the code's noise is drawn at
    float divergence_weight;  // of the posterior's divergence from N(0, I)
    double divergence_limit;  // its mean over the rows counts no more; may be infinite
    float lowest_log_var, highest_log_var;  // the posterior's is clamped; may be infinite
    CodePenalty penalty;
    double penalty_weight, penalty_target;
    Objective objective;
    int log_var;                 // the Gaussian decoder's parameter; -1 for none
    int64_t log_var_size;        // 1, or one for each visible unit
    std::vector<int64_t> sizes;  // of the parameters, in elements
};

// x [rows, visible], its rows row_stride apart. gradients holds a pointer for each parameter, or is
// null where only the loss is needed. A dictionary reconstructs the target, which may be x; other
// plans reconstruct x.
struct StepBatch {
    const float* x;
    int64_t rows, row_stride;
    const float* target;
    int64_t target_row_stride;
    uint64_t seed;
    int64_t row_offset;
    const float* const* parameters;
    float* const* gradients;
    Gemm* multiply;  // gemm of the instruction set
    Precision precision;
    int threads;
};

enum class OptimizerKind { sgd, adam, adamw, average };

// One parameter's update, as torch.optim's SGD, Adam and AdamW define it. `first` is the momentum
// buffer or the mean of the gradients, `second` the mean of their squares. An average is no
// optimizer's: it moves towards its "gradient", a batch's statistic, by the momentum.
struct ParameterUpdate {
    OptimizerKind kind;
    float* parameter;
    const float* gradient;
    float* first;
    float* second;
    int64_t size;
    double learning_rate, weight_decay;
    double momentum, dampening;  // SGD
    bool nesterov, maximize;
    bool is_first;  // SGD: the buffer holds nothing yet
    double beta1, beta2, epsilon;
    int64_t step;        // Adam: counted from 1
    float* count;        // Adam: torch's own count of the steps, or null
    bool is_cumulative;  // average: of all batches alike, as many as steps
    int64_t* batches;    // average: torch's own count of them, or null
    int64_t columns;     // Adam: of a matrix, whose rows are looked at; 0 takes elements
    bool has_unit_rows;  // they are directions: their gradients are projected
};

// Rows of numbers, as a dataset holds them: samples are rows / scale.
struct DataRows {
    const void* rows;
    bool are_bytes;  // uint8; else float32
    float scale;
    int64_t columns, row_stride;
};

// Steps over minibatches of `order`, which holds epochs of epoch_rows indices each; the first may
// have begun earlier. An epoch's last minibatch may be smaller. Where a plan has batch
// normalization, they end before a minibatch of one row.
struct FitArguments {
    DataRows data;
    const DataRows* targets;  // as many, in the same order; null: the rows themselves
    const int64_t* order;
    int64_t count, epoch_rows, batch_size;
    bool is_even;           // an epoch's minibatches differ by one row at most
    const uint64_t* seeds;  // of each epoch: step n draws with its n-th child
    int64_t first_step;     // of the first epoch, counted from 0
    // Not vectors: a kernel's object, compiled for one instruction set, shares no symbol.
    ParameterUpdate* updates;  // one a parameter that is trained; gradients are ours
    const int* updated;        // which parameter each is of
    int64_t trained;           // how many they are
    const float* const* parameters;
    float** gradients;  // room for where each parameter's lies
    double* losses;     // of each step
    double seconds;     // returns after the step that passes this limit
    Gemm* multiply;
    Precision precision;
    int threads;
};

struct FitResult {
    int64_t steps;   // that were taken whole
    bool is_finite;  // false: the loss of the step after them is not, and nothing of it was applied
};

namespace AEFAST_ISA {

// `products` are the multiplications in a step's largest product.
inline int useful_threads(int64_t products, int threads) {
    return products < (current_crew ? kFewestProductsOfCrew : kFewestProducts) ? 1 : threads;
}

}  // namespace AEFAST_ISA

AEFAST_DECLARE_KERNELS(int64_t largest_product(const StepPlan&, int64_t rows);
                       int64_t fewest_rows(const StepPlan&);
                       double step(const StepPlan&, const StepBatch&);
                       void update(ParameterUpdate&, int threads);
                       FitResult fit(const StepPlan&, const FitArguments&);
                       void release_layer_memory(); void release_step_memory();)

}  // namespace aefast
