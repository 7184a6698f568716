#!/bin/sh
# draw_training.sh ROWS: draws the pictures of "Does it train better?" in docs/optimizers.md with
# gnuplot from the trials that curvature_training_bench wrote. TERMINAL=pngcairo makes them PNG.
set -eu
rows=$(realpath "$1")
cd "$(dirname "$0")"
data=$(mktemp -d)
trap 'rm -r "$data"' EXIT
python3 -B ../../tests/benchmark/training/report.py "$rows" --data "$data" >/dev/null
terminal=${TERMINAL:-svg}
case $terminal in svg) ending=svg ;; *) ending=png ;; esac

common="set grid lc rgb '#dddddd'; set border 3; set tics nomirror; set key autotitle columnheader;
  array colour[8] = ['#222222', '#999999', '#d55e00', '#e69f00', '#cc79a7', '#009e73', '#0072b2', '#56b4e9'];
  array dash[8] = [1, 2, 1, 2, 1, 1, 1, 2]"
style='with lines lw 2 lc rgb colour[i+1] dt dash[i+1]'
gpt=$(cat "$data/character-gpt.target")
mlp=$(cat "$data/fashion-mlp.target")
gnuplot -e "set terminal $terminal size 1000,760 font 'sans-serif,13' background '#ffffff'" \
  -e "set output 'training_curves.$ending'; $common" -e "set multiplot layout 2,2;
  set title 'character GPT'; set yrange [1.8:3]; set ylabel 'held-out loss'; set xlabel 'steps'; set xrange [0:300];
  set key top right; set arrow 1 from graph 0, first $gpt to graph 1, first $gpt nohead lc rgb '#222222' dt 3;
  plot for [i=0:7] '$data/character-gpt' index i using 1:2 $style;
  set key off; set xlabel 'seconds'; set xrange [0:*]; plot for [i=0:7] '$data/character-gpt' index i using 3:2 $style;
  set title 'Fashion-MNIST perceptron'; set yrange [0.28:0.6]; set xlabel 'steps'; set xrange [0:480];
  set arrow 1 from graph 0, first $mlp to graph 1, first $mlp nohead lc rgb '#222222' dt 3;
  plot for [i=0:7] '$data/fashion-mlp' index i using 1:2 $style;
  set xlabel 'seconds'; set xrange [0:*]; plot for [i=0:7] '$data/fashion-mlp' index i using 3:2 $style"
gnuplot -e "set terminal $terminal size 1000,400 font 'sans-serif,13' background '#ffffff'" \
  -e "set output 'training_profile.$ending'; $common" -e "set multiplot layout 1,2;
  set ylabel 'problems solved'; set yrange [0:1.05]; set xrange [1:4]; set key bottom right;
  set xlabel 'steps, times the fewest';
  plot for [i=0:7] '$data/profile_steps' index i using 1:2 with steps lw 2 lc rgb colour[i+1] dt dash[i+1];
  set key off; set xlabel 'seconds, times the fewest';
  plot for [i=0:7] '$data/profile_seconds' index i using 1:2 with steps lw 2 lc rgb colour[i+1] dt dash[i+1]"
