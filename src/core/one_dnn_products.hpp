#pragma once

namespace curvature::detail {

/// While one lives, LibTorch's own products of large float32 matrices in this thread (`mm`,
/// `addmm`: linear layers, forwards, backwards and any number of derivatives) go through oneDNN
/// like `matrix_product`. They are caught below autograd, so graphs are the usual ones.
class OneDnnProducts {
 public:
  OneDnnProducts();
  ~OneDnnProducts();
  OneDnnProducts(const OneDnnProducts&) = delete;
  OneDnnProducts& operator=(const OneDnnProducts&) = delete;

 private:
  bool before_;
};

}  // namespace curvature::detail
