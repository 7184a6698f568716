#!/bin/sh
# draw.sh BUILD: draws the pictures of docs/layerwise.md and docs/solvers_and_estimators.md with gnuplot,
# from the numbers that the examples in the build folder print.
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
"$build/examples/example_kfac_preconditioner" >"$data/preconditioners"
"$build/examples/example_fisher_blocks" >"$data/blocks"
gnuplot -e "$common" -e "set terminal svg size 860,380; set output 'kfac_preconditioner.svg';
  set multiplot layout 1,2; set logscale x; set xrange [1:250]; set xlabel 'iterations';
  set yrange [1e-8:3]; set key bottom left; set title 'relative residual';
  plot for [i=0:4] '$data/preconditioners' index i using 1:2 with lines lw 2 lc rgb colour[i+1];
  set key off; set title 'missing decrease of the quadratic model';
  plot for [i=0:4] '$data/preconditioners' index i using 1:3 with lines lw 2 lc rgb colour[i+1]"
# A row for each layer; its colours end at a quarter of the block's largest entry.
{
  echo "set terminal svg size 1120,400 font 'sans-serif,12' background 'white'"
  echo "set output 'fisher_blocks.svg'; unset key; unset tics; unset colorbox; set size ratio -1"
  echo "set palette defined (-1 '#0072b2', 0 'white', 1 '#d55e00'); set yrange [*:*] reverse"
  echo "set multiplot layout 2,7 margins 0.005,0.995,0.01,0.93 spacing 0.01,0.09"
  index=0
  grep '^#' "$data/blocks" | while IFS= read -r title; do
    matrix="'$data/blocks' index $index matrix"
    case $title in *:\ GGN) echo "stats $matrix using 3 nooutput; c = STATS_max / 4" ;; esac
    echo "set cbrange [-c:c]; set title '${title#??}' offset 0,-0.8; plot $matrix with image notitle"
    index=$((index + 1))
  done
} >"$data/blocks.gnuplot"
gnuplot "$data/blocks.gnuplot"
sed -i 's/<image /<image style="image-rendering:pixelated" /' fisher_blocks.svg
