#include <algorithm>

#include <curvature/spectral/block_lanczos.hpp>

#include "core/check.hpp"
#include "spectral/eigen_support.hpp"
#include "spectral/thick_restart.hpp"

namespace curvature {
namespace {

constexpr const char* kBlockLanczos = "block_lanczos_eigenpairs";

}  // namespace

BlockLanczosResult block_lanczos_eigenpairs(const LinearOperator& a,
                                            const BlockLanczosOptions& options) {
  detail::check_symmetric(a, kBlockLanczos);
  detail::check_selection(a, kBlockLanczos, options.count, options.count_bottom, options.order);
  detail::check_iteration(kBlockLanczos, options.tolerance, options.max_restarts);
  CURVATURE_CHECK(options.block_size > 0, OptionError, "{}: block_size must be positive; got {}",
                  kBlockLanczos, options.block_size);
  const int64_t wanted = options.count + options.count_bottom;
  const int64_t max_basis =
      options.max_basis.value_or(2 * wanted + std::max<int64_t>(20, 8 * options.block_size));
  detail::check_basis(a, kBlockLanczos, wanted, options.block_size, max_basis);
  return detail::thick_restart_eigenpairs(a,
                                          {.who = kBlockLanczos,
                                           .count = options.count,
                                           .count_bottom = options.count_bottom,
                                           .order = options.order,
                                           .block_size = options.block_size,
                                           .max_basis = max_basis,
                                           .tolerance = detail::tolerance_of(a, options.tolerance),
                                           .max_restarts = options.max_restarts,
                                           .find_copies = true,
                                           .verify = true,
                                           .start = {},
                                           .random = options.random,
                                           .observer = options.observer});
}

BlockLanczosResult block_lanczos_eigenpairs(const OperatorPtr& a,
                                            const BlockLanczosOptions& options) {
  CURVATURE_CHECK(a != nullptr, OptionError, "{}: the operator is null", kBlockLanczos);
  return block_lanczos_eigenpairs(*a, options);
}

}  // namespace curvature
