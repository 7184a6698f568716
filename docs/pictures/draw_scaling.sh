#!/bin/sh
# draw_scaling.sh FILE: draws the picture of docs/performance.md with gnuplot from what
# curvature_scaling printed.
set -eu
data=$(realpath "$1")
cd "$(dirname "$0")"
gnuplot -e "set terminal svg size 1000,560 font 'sans-serif,12' background 'white'; set output 'scaling.svg';
  set grid lc rgb '#dddddd'; set border 3; set tics nomirror; set logscale xy; set key top left Left reverse samplen 2; set format x '10^{%T}';
  set style data linespoints; set multiplot layout 2,3;
  set ylabel 'seconds'; set xlabel 'examples'; set xrange [100:1e5]; set yrange [1e-3:10];
  plot '$data' index 0 using 1:2 lw 2 pt 7 ps 0.5 lc rgb '#d55e00' title 'nothing kept',
       '$data' index 1 using 1:2 lw 2 pt 7 ps 0.5 lc rgb '#0072b2' title 'linearisations kept';
  set ylabel 'peak memory, MB'; set yrange [50:1000];
  plot '$data' index 0 using 1:3 lw 2 pt 7 ps 0.5 lc rgb '#d55e00' title 'nothing kept',
       '$data' index 1 using 1:3 lw 2 pt 7 ps 0.5 lc rgb '#0072b2' title 'linearisations kept';
  set xrange [1e4:1e7]; set yrange [1e-4:1]; set ylabel 'seconds'; set xlabel 'parameters';
  plot '$data' index 2 using 1:2 lw 2 pt 7 ps 0.5 lc rgb '#0072b2' title '256 examples';
  set xrange [*:*]; set format x '%g'; set xlabel 'columns'; set ylabel 'seconds a column'; set yrange [1e-3:1e-2];
  plot '$data' index 3 using 1:(\$2/\$1) lw 2 pt 7 ps 0.5 lc rgb '#0072b2' title '256 examples';
  unset logscale; set yrange [0:*]; set ylabel 'seconds'; set xlabel 'memory budget, MB'; set key top right; set yrange [0:0.16];
  plot '$data' index 4 using 1:2 lw 2 pt 7 ps 0.5 lc rgb '#0072b2' title '4096 examples';
  set xlabel 'threads'; set xrange [0.5:2.5]; set yrange [0:0.08]; set xtics 1;
  plot '$data' index 5 using 1:2 lw 2 pt 7 ps 0.5 lc rgb '#0072b2' title 'width 1024'"
