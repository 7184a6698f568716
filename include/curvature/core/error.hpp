#pragma once

#include <stdexcept>

namespace curvature {

/// Root of everything curvature throws. Messages read `who: what; expected X, got Y; what to do`.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A tensor, list or operator has the wrong shape.
struct ShapeError : Error {
  using Error::Error;
};

/// A tensor or operator has another dtype or device than its counterpart; nothing is cast silently.
struct DtypeDeviceError : Error {
  using Error::Error;
};

/// An option has a value outside its range, or two options contradict each other.
struct OptionError : Error {
  using Error::Error;
};

/// Examples or targets are empty, not finite, inconsistent, or do not fit the loss.
struct DataError : Error {
  using Error::Error;
};

/// A file is missing, truncated, corrupt, or of an unsupported kind.
struct FileError : Error {
  using Error::Error;
};

/// The model cannot be loaded, cannot be run, or is not a function of its parameters alone.
struct ModelError : Error {
  using Error::Error;
};

/// The operation is mathematically sound but not available for this operator.
struct NotSupportedError : Error {
  using Error::Error;
};

/// The parameters (or buffers) changed after an operator was built on them.
struct StaleOperatorError : Error {
  using Error::Error;
};

/// A computation produced, or would produce, numbers that are not finite.
struct NumericalError : Error {
  using Error::Error;
};

}  // namespace curvature
