#pragma once

#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

#include <curvature/optim/factor_structure.hpp>

namespace curvature::optim {

/// A matrix of a class, by the tensors that hold it; what each one is, the class knows. Sums and
/// multiples act on each tensor.
using Parts = std::vector<at::Tensor>;

/// A class of d x d matrices K closed under sums and products, with the identity.
///
/// Pi maps a symmetric matrix S to the class so that K (I - h Pi(S)) has the same K K^T as
/// K (I - h S) to first order in h: entries outside of the diagonal blocks that the class keeps
/// whole count twice, for themselves and for their mirror image (where it keeps only means, means).
class MatrixClass {
 public:
  explicit MatrixClass(int64_t size) : size_(size) {}
  virtual ~MatrixClass() = default;

  int64_t size() const { return size_; }
  virtual Parts identity(const at::TensorOptions& options) const = 0;
  virtual void add_identity(Parts& k, double factor) const = 0;
  virtual Parts product(const Parts& a, const Parts& b) const = 0;
  /// K (or K^T) on axis `mode` of X.
  virtual at::Tensor multiply(const at::Tensor& x, const Parts& k, size_t mode,
                              bool transposed) const = 0;
  /// Pi(X_(i) X_(i)^T) for the unfolding along `mode`.
  virtual Parts project_gram(const at::Tensor& x, size_t mode) const = 0;
  /// Pi(K^T K).
  virtual Parts project_inner(const Parts& k) const = 0;
  /// |K|_F^2, which is tr(K^T K), in double.
  virtual double squared_norm(const Parts& k) const = 0;
  /// In double.
  virtual double trace(const Parts& k) const = 0;
  virtual at::Tensor dense(const Parts& k) const = 0;
  /// Whether K is kept as one matrix, zeros included.
  virtual bool is_one_matrix() const { return false; }
  /// Numbers that a matrix takes.
  virtual int64_t num_entries() const = 0;

 private:
  int64_t size_;
};

/// @throws OptionError for sizes that are not positive
std::unique_ptr<MatrixClass> matrix_class(const StructureOptions& options, int64_t size);

/// a <- a scale + factor b, part by part.
void scale_and_add(Parts& a, double scale, const Parts& b, double factor);

}  // namespace curvature::optim
