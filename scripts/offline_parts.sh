# Sourced by an unpack.sh beside it, with `here` and `staged` set: keeps the parts that came with this transfer in `staged`, and puts
# them together there as `whole`, the name that sha256 gives. Exits 1 until all of them came.
whole=$(cut -d ' ' -f 3 "$here/sha256")
mkdir -p "$staged"
for part in "$here"/*.part-*; do
  [ -e "$part" ] && cp "$part" "$staged"
done
cat "$staged/$whole".part-* > "$staged/$whole"
if ! (cd "$staged" && sha256sum --status --check "$here/sha256"); then
  echo "parts so far: $(cd "$staged" && echo *.part-*); the checksum does not match yet: bring the others" >&2
  exit 1
fi
