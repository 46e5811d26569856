// Instruction sets: those that kernels are compiled for, and the one in use.
#pragma once

#include <string>
#include <vector>

// Every kernel source is compiled once per instruction set, with AEFAST_ISA naming the namespace.
#ifndef AEFAST_ISA
#define AEFAST_ISA baseline
#endif

// Declares kernels, for those who call them, in the namespace of each instruction set.
#ifdef AEFAST_X86
#define AEFAST_DECLARE_KERNELS(...) \
    namespace baseline {            \
    __VA_ARGS__                     \
    }                               \
    namespace avx2 {                \
    __VA_ARGS__                     \
    }                               \
    namespace avx512 {              \
    __VA_ARGS__                     \
    }
#else
#define AEFAST_DECLARE_KERNELS(...) \
    namespace baseline {            \
    __VA_ARGS__                     \
    }
#endif

namespace aefast {

enum class InstructionSet { baseline, avx2, avx512, amx };

const char* name(InstructionSet instruction_set);

// What the processor, the operating system and this build offer together.
InstructionSet detected_instruction_set();
std::vector<std::string> detected_features();

// The one that kernels use: the detected one, or the cap where that is lower.
InstructionSet active_instruction_set();
void cap_instruction_set(InstructionSet cap);

}  // namespace aefast
