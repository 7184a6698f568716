#pragma once

#include <string>

#include <ATen/core/Tensor.h>

#include <curvature/core/space.hpp>

#include "io/byte_source.hpp"

namespace curvature::detail {

/// What the header of an npy file says.
struct NpyHeader {
  at::ScalarType dtype = at::kDouble;
  bool swap_bytes = false;
  bool fortran_order = false;
  Shape shape;
};

/// Reads the header; the source is then at the first byte of the data.
/// @throws FileError if it is not one, or its dtype is not supported
NpyHeader read_npy_header(ByteSource& source);

/// Reads a whole npy file, to its end.
at::Tensor read_npy(ByteSource& source);

/// Everything that a file has before the data of `tensor`; the data begin at a multiple of 64
/// bytes. @throws DtypeDeviceError if npy has no such dtype
std::string npy_header(const at::Tensor& tensor);

}  // namespace curvature::detail
