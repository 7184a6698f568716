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

common="set grid lc rgb '#dddddd'; set border 3; set tics nomirror; set key off;
  array colour[8] = ['#222222', '#888888', '#d55e00', '#e69f00', '#cc79a7', '#009e73', '#0072b2', '#56b4e9'];
  array dash[8] = [1, 2, 1, 1, 1, 1, 1, 2]"
# One key above all panels, in two rows: gnuplot's own would be as narrow as a panel.
key="unset key"
i=0
for name in $(sed -n 's/^"\(.*\)"$/\1/p' "$data/profile_steps"); do
  x="0.08 + 0.24 * $((i % 4))" y="screen (1 - (14.0 + 20 * $((i / 4))) / height)" n=$((i + 1))
  key="$key; set label $n '$name' at screen ($x + 0.042), $y left;
    set arrow $n from screen ($x), $y rto screen 0.035, screen 0 nohead lw 2 lc rgb colour[$n] dt dash[$n]"
  i=$((i + 1))
done
# The key belongs to the first panel alone.
clear='do for [i=1:8] { unset label i; unset arrow i }'
font="font 'sans-serif,13' background '#ffffff'"
look='lw 2 lc rgb colour[i+1] dt dash[i+1]'
gpt="'$data/character-gpt'"
mlp="'$data/fashion-mlp'"
target="nohead lw 1 lc rgb '#222222' dt 3"
gpt_target=$(cat "$data/character-gpt.target")
mlp_target=$(cat "$data/fashion-mlp.target")
gnuplot -e "set terminal $terminal size 1000,780 $font; set output 'training_curves.$ending'; $common; height = 780; $key" \
  -e "set multiplot layout 2,2 margins 0.09,0.98,0.09,0.89 spacing 0.11,0.17; set ylabel 'held-out loss' offset 0.5,0;
  set title 'character-gpt'; set yrange [1.8:3];
  set arrow 9 from graph 0, first $gpt_target to graph 1, first $gpt_target $target;
  set xlabel 'steps'; set xrange [0:300]; set xtics 50; plot for [i=0:7] $gpt index i using 1:2 with lines $look;
  $clear; set logscale x; set xlabel 'seconds'; set xrange [0.5:40]; set xtics (0.5, 1, 2, 5, 10, 20, 40);
  plot for [i=0:7] $gpt index i using 3:2 with lines $look;
  set title 'fashion-mlp'; set yrange [0.26:0.6];
  set arrow 9 from graph 0, first $mlp_target to graph 1, first $mlp_target $target;
  unset logscale; set xlabel 'steps'; set xrange [0:480]; set xtics 80; plot for [i=0:7] $mlp index i using 1:2 with lines $look;
  set logscale x; set xlabel 'seconds'; set xrange [0.1:40]; set xtics (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 40);
  plot for [i=0:7] $mlp index i using 3:2 with lines $look"
gnuplot -e "set terminal $terminal size 1000,420 $font; set output 'training_profile.$ending'; $common; height = 420; $key" \
  -e "set multiplot layout 1,2 margins 0.08,0.98,0.15,0.86 spacing 0.1,0.1;
  set ylabel 'part of the problems solved' offset 0.5,0; set yrange [0:1.05]; set xrange [1:5];
  set xlabel 'steps, in units of the fewest'; plot for [i=0:7] '$data/profile_steps' index i using 1:2 with steps $look;
  $clear; set xlabel 'seconds, in units of the fewest';
  plot for [i=0:7] '$data/profile_seconds' index i using 1:2 with steps $look"
