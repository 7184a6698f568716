#pragma once

#include <cstdint>
#include <string_view>

#include <ATen/core/Tensor.h>

#include <curvature/core/space.hpp>

#include "io/byte_source.hpp"

namespace curvature::detail {

/// Bytes of a dense tensor, for a shape that a file claims. @throws FileError if an extent is
/// negative, there are too many axes, or the product does not fit (zero extents count as one)
int64_t checked_num_bytes(std::string_view who, const Shape& shape, at::ScalarType dtype);

/// Row-major strides of `shape`.
Shape row_major_strides(const Shape& shape);

/// Reads a dense row-major tensor. Memory is taken only if the source can hold that much.
/// @throws FileError if it cannot, or a boolean is neither 0 nor 1
at::Tensor read_tensor(ByteSource& source, const Shape& shape, at::ScalarType dtype,
                       bool swap_bytes = false);

/// @throws FileError if a tensor of dtype bool holds a byte other than 0 or 1
void check_booleans(std::string_view who, const at::Tensor& tensor);

/// `tensor` as it is written: on the CPU, contiguous, without graph.
/// @throws NotSupportedError if it is sparse or quantized, DtypeDeviceError for dtypes of which no
/// format knows (complex numbers, for example)
at::Tensor as_written(std::string_view who, const at::Tensor& tensor);

}  // namespace curvature::detail
