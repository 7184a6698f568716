#include "optim/structured_factor.hpp"

#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/diag.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/fft_irfft.h>
#include <ATen/ops/fft_rfft.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include "core/check.hpp"
#include "core/matrix_product.hpp"
#include "optim/mode_algebra.hpp"

namespace curvature::optim {
namespace {

double squares(const at::Tensor& x) {
  const double norm = at::linalg_vector_norm(x, 2, std::nullopt, false, at::kDouble).item<double>();
  return norm * norm;
}

/// The sum of entries, in double.
double sum_of(const at::Tensor& x) { return x.sum(at::kDouble).item<double>(); }

/// Full matrices and triangular ones, which keep their zeros: LibTorch multiplies them no faster.
class DenseClass : public MatrixClass {
 public:
  DenseClass(int64_t size, FactorStructure kind) : MatrixClass(size), kind_(kind) {}

  Parts identity(const at::TensorOptions& options) const override {
    return {at::eye(size(), options)};
  }
  void add_identity(Parts& k, double factor) const override { k[0].diagonal().add_(factor); }
  Parts product(const Parts& a, const Parts& b) const override {
    return {curvature::detail::matrix_product(a[0], b[0])};
  }
  at::Tensor multiply(const at::Tensor& x, const Parts& k, size_t mode,
                      bool transposed) const override {
    return mode_product(x, transposed ? k[0].t() : k[0], mode);
  }
  Parts project_gram(const at::Tensor& x, size_t mode) const override {
    return {projected(mode_gram(x, mode))};
  }
  Parts project_inner(const Parts& k) const override { return {projected(mode_gram(k[0], 1))}; }
  double squared_norm(const Parts& k) const override { return squares(k[0]); }
  at::Tensor dense(const Parts& k) const override { return k[0]; }
  double trace(const Parts& k) const override { return sum_of(k[0].diagonal()); }
  bool is_one_matrix() const override { return true; }
  int64_t num_entries() const override { return size() * size(); }

 private:
  at::Tensor projected(at::Tensor s) const {
    if (kind_ == FactorStructure::kDense) return s;
    if (kind_ == FactorStructure::kLowerTriangular) s.tril_();
    if (kind_ == FactorStructure::kUpperTriangular) s.triu_();
    const at::Tensor diagonal = s.diagonal().clone();
    s.mul_(2).diagonal().copy_(diagonal);
    return s;
  }

  FactorStructure kind_;
};

class DiagonalClass : public MatrixClass {
 public:
  using MatrixClass::MatrixClass;

  Parts identity(const at::TensorOptions& options) const override {
    return {at::ones(size(), options)};
  }
  void add_identity(Parts& k, double factor) const override { k[0].add_(factor); }
  Parts product(const Parts& a, const Parts& b) const override { return {a[0] * b[0]}; }
  at::Tensor multiply(const at::Tensor& x, const Parts& k, size_t mode, bool) const override {
    return x * along_mode(k[0], mode, static_cast<size_t>(x.dim()));
  }
  Parts project_gram(const at::Tensor& x, size_t mode) const override {
    return {sum_other_modes(x * x, mode)};
  }
  Parts project_inner(const Parts& k) const override { return {k[0] * k[0]}; }
  double squared_norm(const Parts& k) const override { return squares(k[0]); }
  at::Tensor dense(const Parts& k) const override { return at::diag(k[0]); }
  double trace(const Parts& k) const override { return sum_of(k[0]); }
  int64_t num_entries() const override { return size(); }
};

/// Blocks of equal size `[n, b, b]` and one for the rest `[r, r]`, possibly empty.
class BlockDiagonalClass : public MatrixClass {
 public:
  BlockDiagonalClass(int64_t size, int64_t block)
      : MatrixClass(size), block_(std::min(block, size)) {}

  Parts identity(const at::TensorOptions& options) const override {
    return {at::eye(block_, options).repeat({num_blocks(), 1, 1}), at::eye(rest(), options)};
  }
  void add_identity(Parts& k, double factor) const override {
    k[0].diagonal(0, 1, 2).add_(factor);
    k[1].diagonal().add_(factor);
  }
  Parts product(const Parts& a, const Parts& b) const override {
    return {at::bmm(a[0], b[0]), a[1].mm(b[1])};
  }
  at::Tensor multiply(const at::Tensor& x, const Parts& k, size_t mode,
                      bool transposed) const override {
    const at::Tensor y = around(x, mode);
    const at::Tensor blocks = transposed ? k[0].transpose(1, 2) : k[0];
    at::Tensor result = at::empty(y.sizes(), y.options());
    in_blocks(result).copy_(at::bmm(blocks, columns(y))
                                .view({num_blocks(), block_, y.size(0), y.size(2)})
                                .permute({2, 0, 1, 3}));
    if (rest() > 0) {
      remainder(result).copy_(mode_product(remainder(y), transposed ? k[1].t() : k[1], 1));
    }
    return result.view(x.sizes());
  }
  Parts project_gram(const at::Tensor& x, size_t mode) const override {
    const at::Tensor y = around(x, mode);
    const at::Tensor whole = columns(y);
    const at::Tensor last = remainder(y).transpose(0, 1).flatten(1);
    return {at::bmm(whole, whole.transpose(1, 2)), last.mm(last.t())};
  }
  Parts project_inner(const Parts& k) const override {
    return {at::bmm(k[0].transpose(1, 2), k[0]), k[1].t().mm(k[1])};
  }
  double squared_norm(const Parts& k) const override { return squares(k[0]) + squares(k[1]); }
  double trace(const Parts& k) const override {
    return sum_of(k[0].diagonal(0, 1, 2)) + sum_of(k[1].diagonal());
  }
  at::Tensor dense(const Parts& k) const override {
    at::Tensor result = at::zeros({size(), size()}, k[0].options());
    const auto place = [&](int64_t begin, const at::Tensor& part) {
      result.narrow(0, begin, part.size(0)).narrow(1, begin, part.size(0)).copy_(part);
    };
    for (int64_t i = 0; i < num_blocks(); ++i) place(i * block_, k[0][i]);
    place(num_blocks() * block_, k[1]);
    return result;
  }
  int64_t num_entries() const override { return num_blocks() * block_ * block_ + rest() * rest(); }

 private:
  int64_t num_blocks() const { return size() / block_; }
  int64_t rest() const { return size() % block_; }
  /// `[before, n, b, after]`
  at::Tensor in_blocks(const at::Tensor& y) const {
    return y.narrow(1, 0, num_blocks() * block_).view({y.size(0), num_blocks(), block_, y.size(2)});
  }
  /// `[n, b, before after]`, for one product with each block.
  at::Tensor columns(const at::Tensor& y) const {
    return in_blocks(y).permute({1, 2, 0, 3}).flatten(2);
  }
  at::Tensor remainder(const at::Tensor& y) const {
    return y.narrow(1, num_blocks() * block_, rest());
  }

  int64_t block_;
};

/// Lower triangular: K[a, b] = c[a - b]; upper: its transpose. Products are convolutions, by
/// Fourier transforms of twice the length, which LibTorch has in single and double precision only.
class ToeplitzClass : public MatrixClass {
 public:
  ToeplitzClass(int64_t size, bool upper) : MatrixClass(size), upper_(upper) {}

  Parts identity(const at::TensorOptions& options) const override {
    at::Tensor c = at::zeros(size(), options);
    c.narrow(0, 0, 1).fill_(1);
    return {c};
  }
  void add_identity(Parts& k, double factor) const override { k[0].narrow(0, 0, 1).add_(factor); }
  Parts product(const Parts& a, const Parts& b) const override {
    return {inverted(transformed(a[0], 0) * transformed(b[0], 0), 0, a[0])};
  }
  at::Tensor multiply(const at::Tensor& x, const Parts& k, size_t mode,
                      bool transposed) const override {
    // Multiplication by the transpose is correlation.
    const at::Tensor c = transformed(k[0], 0), y = around(x, mode);
    const at::Tensor factor = (transposed != upper_ ? c.conj() : c).unsqueeze(-1);
    return inverted(transformed(y, 1) * factor, 1, x).reshape(x.sizes());
  }
  Parts project_gram(const at::Tensor& x, size_t mode) const override {
    const at::Tensor f = transformed(around(x, mode), 1).abs();
    return {from_diagonal_sums(inverted((f * f).sum({0, 2}), 0, x))};
  }
  Parts project_inner(const Parts& k) const override {
    // Sum over a of (K^T K)[a, a + j] = sum over s of (d - s) c[s] c[s - j].
    const at::Tensor f = transformed(k[0] * lengths(k[0]), 0);
    return {from_diagonal_sums(inverted(f * transformed(k[0], 0).conj(), 0, k[0]))};
  }
  double squared_norm(const Parts& k) const override {
    return (k[0].to(at::kDouble).square() * lengths(k[0])).sum().item<double>();
  }
  double trace(const Parts& k) const override {
    return static_cast<double>(size()) * k[0][0].item<double>();
  }
  at::Tensor dense(const Parts& k) const override {
    const at::Tensor i = at::arange(size(), k[0].options().dtype(at::kLong));
    const at::Tensor distance = i.unsqueeze(1) - i.unsqueeze(0);
    const at::Tensor lower =
        k[0].index_select(0, distance.clamp_min(0).view(-1)).view({size(), size()}).tril();
    return upper_ ? lower.t() : lower;
  }
  int64_t num_entries() const override { return size(); }

 private:
  /// How long each diagonal is: d, ..., 1.
  at::Tensor lengths(const at::Tensor& like) const {
    return at::arange(size(), 0, -1, like.options());
  }
  at::Tensor transformed(const at::Tensor& x, int64_t axis) const {
    const bool has_transform = x.scalar_type() == at::kDouble || x.scalar_type() == at::kFloat;
    return at::fft_rfft(has_transform ? x : x.to(at::kFloat), 2 * size(), axis);
  }
  at::Tensor inverted(const at::Tensor& f, int64_t axis, const at::Tensor& like) const {
    return at::fft_irfft(f, 2 * size(), axis).narrow(axis, 0, size()).to(like.scalar_type());
  }
  /// Means of a symmetric matrix' diagonals, both of a pair, from sums over one.
  at::Tensor from_diagonal_sums(const at::Tensor& sums) const {
    at::Tensor means = sums / lengths(sums);
    means.narrow(0, 1, size() - 1).mul_(2);
    return means;
  }

  bool upper_;
};

/// [A B C; 0 diag(d) 0; 0 D E], in this order: A, B, C, d, D, E.
class HierarchicalClass : public MatrixClass {
 public:
  HierarchicalClass(int64_t size, int64_t top, int64_t bottom)
      : MatrixClass(size), top_(std::min(top, size)), bottom_(std::min(bottom, size - top_)) {}

  Parts identity(const at::TensorOptions& options) const override {
    return {at::eye(top_, options),
            at::zeros({top_, middle()}, options),
            at::zeros({top_, bottom_}, options),
            at::ones(middle(), options),
            at::zeros({bottom_, middle()}, options),
            at::eye(bottom_, options)};
  }
  void add_identity(Parts& k, double factor) const override {
    k[0].diagonal().add_(factor);
    k[3].add_(factor);
    k[5].diagonal().add_(factor);
  }
  Parts product(const Parts& k, const Parts& n) const override {
    return {k[0].mm(n[0]),
            k[0].mm(n[1]).add_(k[1] * n[3]).addmm_(k[2], n[4]),
            k[0].mm(n[2]).addmm_(k[2], n[5]),
            k[3] * n[3],
            (k[4] * n[3]).addmm_(k[5], n[4]),
            k[5].mm(n[5])};
  }
  at::Tensor multiply(const at::Tensor& x, const Parts& k, size_t mode,
                      bool transposed) const override {
    const auto [t, m, b] = strips(around(x, mode));
    const at::Tensor scaled = m * k[3].unsqueeze(-1);
    const auto times = [&](size_t part, const at::Tensor& y) {
      return mode_product(y, transposed ? k[part].t() : k[part], 1);
    };
    const Parts rows =
        transposed
            ? Parts{times(0, t), times(1, t) + scaled + times(4, b), times(2, t) + times(5, b)}
            : Parts{times(0, t) + times(1, m) + times(2, b), scaled, times(4, m) + times(5, b)};
    return at::cat(rows, 1).view(x.sizes());
  }
  Parts project_gram(const at::Tensor& x, size_t mode) const override {
    const auto [top, middle, bottom] = strips(around(x, mode));
    const auto rows = [](const at::Tensor& strip) { return strip.transpose(0, 1).flatten(1); };
    const at::Tensor t = rows(top), m = rows(middle), b = rows(bottom);
    return {t.mm(t.t()),      2 * t.mm(m.t()), 2 * t.mm(b.t()),
            (m * m).sum({1}), 2 * b.mm(m.t()), b.mm(b.t())};
  }
  Parts project_inner(const Parts& k) const override {
    return {k[0].t().mm(k[0]),
            2 * k[0].t().mm(k[1]),
            2 * k[0].t().mm(k[2]),
            (k[1] * k[1]).sum({0}) + k[3] * k[3] + (k[4] * k[4]).sum({0}),
            2 * (k[2].t().mm(k[1]) + k[5].t().mm(k[4])),
            k[2].t().mm(k[2]).addmm_(k[5].t(), k[5])};
  }
  double squared_norm(const Parts& k) const override {
    double sum = 0;
    for (const at::Tensor& part : k) sum += squares(part);
    return sum;
  }
  double trace(const Parts& k) const override {
    return sum_of(k[0].diagonal()) + sum_of(k[3]) + sum_of(k[5].diagonal());
  }
  at::Tensor dense(const Parts& k) const override {
    const auto options = k[0].options();
    const at::Tensor first = at::cat({k[0], k[1], k[2]}, 1);
    const at::Tensor second = at::cat({at::zeros({middle(), top_}, options), at::diag(k[3]),
                                       at::zeros({middle(), bottom_}, options)},
                                      1);
    const at::Tensor third = at::cat({at::zeros({bottom_, top_}, options), k[4], k[5]}, 1);
    return at::cat({first, second, third}, 0);
  }
  int64_t num_entries() const override {
    return top_ * size() + middle() + bottom_ * (middle() + bottom_);
  }

 private:
  struct Strips {
    at::Tensor top, middle, bottom;
  };
  int64_t middle() const { return size() - top_ - bottom_; }
  Strips strips(const at::Tensor& y) const {
    return {y.narrow(1, 0, top_), y.narrow(1, top_, middle()),
            y.narrow(1, size() - bottom_, bottom_)};
  }

  int64_t top_, bottom_;
};

}  // namespace

std::unique_ptr<MatrixClass> matrix_class(const StructureOptions& options, int64_t size) {
  CURVATURE_CHECK(options.block_size >= 1 && options.top >= 1 && options.bottom >= 1, OptionError,
                  "structure: expected positive sizes of blocks, got {}, {} and {}",
                  options.block_size, options.top, options.bottom);
  switch (options.kind) {
    case FactorStructure::kDiagonal:
      return std::make_unique<DiagonalClass>(size);
    case FactorStructure::kBlockDiagonal:
      return std::make_unique<BlockDiagonalClass>(size, options.block_size);
    case FactorStructure::kLowerToeplitz:
    case FactorStructure::kUpperToeplitz:
      return std::make_unique<ToeplitzClass>(size, options.kind == FactorStructure::kUpperToeplitz);
    case FactorStructure::kHierarchical:
      return std::make_unique<HierarchicalClass>(size, options.top, options.bottom);
    default:
      return std::make_unique<DenseClass>(size, options.kind);
  }
}

void scale_and_add(Parts& a, double scale, const Parts& b, double factor) {
  for (size_t i = 0; i < a.size(); ++i) a[i].mul_(scale).add_(b[i], factor);
}

}  // namespace curvature::optim
