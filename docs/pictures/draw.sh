#!/bin/sh
# draw.sh BUILD: draws the pictures of docs/solvers_and_estimators.md with gnuplot, from the numbers
# that the examples in the build folder print.
set -eu
build=$(cd "$1" && pwd)
cd "$(dirname "$0")"
data=$(mktemp -d)
trap 'rm -r "$data"' EXIT
"$build/examples/example_solver_convergence" >"$data/solvers"
"$build/examples/example_trace_estimators" >"$data/traces"

common='set terminal svg size 640,400 font "sans-serif,13" background "white"; set grid lc rgb "#dddddd";
  set logscale y; set format y "10^{%T}"; set border 3; set tics nomirror; set key autotitle columnheader;
  array colour[5] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#222222"]'
gnuplot -e "$common" -e "set output 'solver_convergence.svg'; set xlabel 'products with the GGN';
  set ylabel 'relative residual'; set xrange [0:400]; set yrange [1e-8:1e2]; set key top right;
  plot for [i=0:4] '$data/solvers' index i using 1:2 with lines lw 2 lc rgb colour[i+1]"
gnuplot -e "$common" -e "set output 'trace_estimators.svg'; set xlabel 'products';
  set ylabel 'relative error (median of 25 seeds)'; set logscale x; set xtics (12, 24, 48, 96, 192);
  set xrange [11:210]; set yrange [1e-6:1]; set key bottom left;
  plot for [i=0:5] '$data/traces' index i using 1:2 with linespoints lw 2 pt 7 ps 0.5 dt 1+(i>2) lc rgb colour[i % 3 + 1]"
