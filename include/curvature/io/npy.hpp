#pragma once

#include <filesystem>

#include <ATen/core/Tensor.h>

namespace curvature {

// NumPy's array files, format versions 1 to 3 (NEP 1): float16, float32, float64, int8, int16,
// int32, int64, uint8 and bool, in C or Fortran order, little- or big-endian. Anything else
// (objects, text, structures, complex numbers, wider unsigned integers) is refused by name.

/// The array in a `.npy` file, row-major. Nothing is allocated before the file is known to be as
/// long as its header says.
/// @throws FileError if the file is missing, not a whole `.npy` file, or of an unsupported dtype
at::Tensor read_npy(const std::filesystem::path& path);

/// The array in a `.npy` file as a view of the file: for data larger than memory. The system reads
/// what is used and drops it again; writing to the tensor changes memory only, never the file. The
/// file stays mapped as long as the tensor's storage lives and must not be shortened meanwhile; one
/// that is replaced by a rename (as curvature does it) is safe. A Fortran-ordered array has
/// Fortran-ordered strides. Booleans are read once, to check them.
/// @throws FileError as `read_npy`, and for big-endian or misaligned data
at::Tensor map_npy(const std::filesystem::path& path);

/// Writes a dense tensor as a `.npy` file (version 1, C order), atomically. A contiguous tensor on
/// the CPU is not copied.
/// @throws FileError if it cannot be written, DtypeDeviceError if npy has no such dtype (bfloat16),
/// NotSupportedError if the tensor is not dense
void write_npy(const std::filesystem::path& path, const at::Tensor& tensor);

}  // namespace curvature
