// The draws of torch's CPU generator: MT19937, a block of words at a time.
//
// torch draws word by word: half of a denoising model's forward pass at 784-512 on 1024 rows.
//
// Reference: Matsumoto, Nishimura, "Mersenne twister", ACM TOMACS 8, 1998.
#include "acceleration/mersenne_twister.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "shared/box_muller.h"
#include "shared/parallel.h"

namespace aefast::AEFAST_ISA {
namespace {

constexpr int kWords = MersenneTwister::kWords;
constexpr int kMiddle = 397;

uint32_t twist(uint32_t word, uint32_t next) {
    const uint32_t mixed = (word & 0x80000000u) | (next & 0x7fffffffu);
    return (mixed >> 1) ^ (next & 1u ? 0x9908b0dfu : 0u);
}

// The generator's words in 32 bits, and how many of them have been drawn.
class Words {
  public:
    explicit Words(MersenneTwister& twister) : twister_(twister) {
        for (int i = 0; i < kWords; ++i) words_[i] = static_cast<uint32_t>(twister.words[i]);
        drawn_ = twister.left == 1 ? kWords : static_cast<int>(twister.next);
    }

    ~Words() {
        for (int i = 0; i < kWords; ++i) twister_.words[i] = words_[i];
        twister_.next = drawn_;
        twister_.left = kWords + 1 - drawn_;
    }

    void draw(uint32_t* output, int64_t count) {
        while (count > 0) {
            if (drawn_ == kWords) renew();
            const int64_t ready = std::min<int64_t>(count, kWords - drawn_);
            temper(words_ + drawn_, output, ready);
            drawn_ += static_cast<int>(ready);
            output += ready;
            count -= ready;
        }
    }

  private:
    void renew() {
#pragma GCC ivdep
        for (int i = 0; i < kWords - kMiddle; ++i)
            words_[i] = words_[i + kMiddle] ^ twist(words_[i], words_[i + 1]);
#pragma GCC ivdep
        for (int i = kWords - kMiddle; i < kWords - 1; ++i)
            words_[i] = words_[i + kMiddle - kWords] ^ twist(words_[i], words_[i + 1]);
        words_[kWords - 1] = words_[kMiddle - 1] ^ twist(words_[kWords - 1], words_[0]);
        drawn_ = 0;
    }

    static void temper(const uint32_t* words, uint32_t* output, int64_t count) {
#pragma GCC ivdep
        for (int64_t i = 0; i < count; ++i) {
            uint32_t word = words[i];
            word ^= word >> 11;
            word ^= (word << 7) & 0x9d2c5680u;
            word ^= (word << 15) & 0xefc60000u;
            output[i] = word ^ (word >> 18);
        }
    }

    MersenneTwister& twister_;
    uint32_t words_[kWords];
    int drawn_;
};

constexpr int64_t kChunk = 1024;

// Calls draw(first, count) for chunks of the numbers, in their order; between tasks of 64 chunks
// signals are handled.
template <class Draw>
void for_each_chunk_in_order(int64_t numbers, const Draw& draw) {
    constexpr int64_t kPerTask = 64 * kChunk;
    parallel_for(1, (numbers + kPerTask - 1) / kPerTask, [&](int64_t task) {
        const int64_t end = std::min((task + 1) * kPerTask, numbers);
        for (int64_t first = task * kPerTask; first < end; first += kChunk)
            draw(first, std::min(kChunk, end - first));
    });
}

// torch makes 16 normals of 16 words: eight radii, and eight angles whose cosines come first.
constexpr int64_t kLanes = 8, kBlock = 2 * kLanes;
constexpr uint32_t kUniformBits = 0xffffffu;

void normal_blocks(const uint32_t* words, float* output, int64_t blocks) {
    constexpr int64_t kPairs = kChunk / 2;
    alignas(64) float radius[kPairs], cosine[kPairs], sine[kPairs];
    alignas(64) uint32_t first[kPairs], second[kPairs];
    for (int64_t block = 0; block < blocks; ++block) {
        std::copy_n(words + block * kBlock, kLanes, first + block * kLanes);
        std::copy_n(words + block * kBlock + kLanes, kLanes, second + block * kLanes);
    }
    const int64_t pairs = blocks * kLanes;
    for (int64_t i = 0; i < pairs; ++i) {
        const auto rest = static_cast<int32_t>(kUniformBits + 1 - (first[i] & kUniformBits));
        radius[i] = box_muller_radius(static_cast<float>(rest) * 0x1p-24f);
    }
    for (int64_t i = 0; i < pairs; ++i) box_muller_angle(second[i] << 8, cosine[i], sine[i]);
    for (int64_t block = 0; block < blocks; ++block) {
        const int64_t pair = block * kLanes;
        float* values = output + block * kBlock;
        for (int64_t i = 0; i < kLanes; ++i) {
            values[i] = radius[pair + i] * cosine[pair + i];
            values[kLanes + i] = radius[pair + i] * sine[pair + i];
        }
    }
}

}  // namespace

// torch compares 53 bits of two words, the first one's above the second's, with the probability.
void dropout_noise(MersenneTwister& twister, float* noise, int64_t count, double keep_probability) {
    Words words(twister);
    const auto threshold = static_cast<int64_t>(std::ceil(std::ldexp(keep_probability, 53)));
    const float scale = 1.f / static_cast<float>(keep_probability);
    alignas(64) uint32_t drawn[2 * kChunk];
    for_each_chunk_in_order(count, [&](int64_t first, int64_t size) {
        words.draw(drawn, 2 * size);
        for (int64_t i = 0; i < size; ++i) {
            const int64_t bits =
                static_cast<int64_t>(drawn[2 * i] & 0x1fffffu) << 32 | drawn[2 * i + 1];
            noise[first + i] = bits < threshold ? scale : 0.f;
        }
    });
}

// A uniform is 24 bits of a word.
void uniform(MersenneTwister& twister, float* values, int64_t count) {
    Words words(twister);
    alignas(64) uint32_t drawn[kChunk];
    for_each_chunk_in_order(count, [&](int64_t first, int64_t size) {
        words.draw(drawn, size);
        for (int64_t i = 0; i < size; ++i)
            values[first + i] =
                static_cast<float>(static_cast<int32_t>(drawn[i] & 0xffffffu)) * 0x1p-24f;
    });
}

// Where the count is no multiple of 16, the last 16 are drawn anew, as torch does.
void normal(MersenneTwister& twister, float* values, int64_t count) {
    Words words(twister);
    alignas(64) uint32_t drawn[kChunk];
    for_each_chunk_in_order(count, [&](int64_t first, int64_t size) {
        words.draw(drawn, size);
        normal_blocks(drawn, values + first, size / kBlock);
    });
    if (count % kBlock == 0) return;
    words.draw(drawn, kBlock);
    normal_blocks(drawn, values + count - kBlock, 1);
}

}  // namespace aefast::AEFAST_ISA
