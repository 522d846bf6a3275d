# What bash can do beyond sh, for tests/guests/linux/user.
say() { echo "guest: bash $*"; }

say "$BASH_VERSION"

declare -A squares
for ((n = 1; n <= 500; n++)); do
    squares[number $n]=$((n * n))
done
total=0
for key in "${!squares[@]}"; do
    total=$((total + squares[$key]))
done
say "table ${#squares[@]} $total"

# Sorts by exchange.
numbers=() x=1
for ((n = 0; n < 60; n++)); do
    x=$((x * 16807 % 2147483647))
    numbers+=("$x")
done
for ((i = 0; i < 60; i++)); do
    for ((j = 0; j + 1 < 60 - i; j++)); do
        if ((numbers[j] > numbers[j + 1])); then
            x=${numbers[j]} numbers[j]=${numbers[j + 1]} numbers[j + 1]=$x
        fi
    done
done
say "sorted ${numbers[*]:0:5} ... ${numbers[*]: -5}"

fibonacci() { (($1 < 2)) && echo "$1" || echo $(($(fibonacci $(($1 - 1))) + $(fibonacci $(($1 - 2))))); }
say "recursion $(fibonacci 8)"

# A long double each: 80-bit floating point.
say "$(printf '%.18f %.15e %a %g' 3.14159265358979323846 6.02214076e23 0.1 1e-300)"
say "$((-7 / 2)) $((-7 % 3)) $((2 ** 62)) $((0xfff ^ 0x5a5)) $((1 << 40 | 3)) $((017))"

text="The quick brown fox jumps over the lazy dog"
[[ $text =~ ([a-z]+)\ fox\ ([a-z]+) ]]
say "match ${BASH_REMATCH[1]} ${BASH_REMATCH[2]}, ${text^^}, ${text//o/0}, ${text#* }, ${text##* }, ${#text}"

mapfile -t lines <<<"$(for n in {1..20}; do echo "line $n"; done)"
say "lines ${#lines[@]} ${lines[19]}"

coproc doubled { while read -r number; do echo $((number * 2)); done; }
for n in 5 50 500; do
    echo $n >&"${doubled[1]}"
    read -r answer <&"${doubled[0]}"
    say "coprocess $answer"
done
kill "$doubled_PID"

trap 'say "trapped"' USR1
kill -USR1 $$
(trap 'exit 9' TERM && kill -TERM "$BASHPID" && sleep 1)
say "subshell $?"
for n in 3 2 1; do (exit $n) & done
failed=0
for n in 3 2 1; do wait -n || failed=$((failed + $?)); done
say "waited $failed"
