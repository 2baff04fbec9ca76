# Plain comments as doxygen knows them: one above a declaration is about it, one behind it too, and
# the one at a file's head is about the file. Rulers between sections are about nothing.

# Texts are meant as they stand: no @, \ or < is a command.
function plain(text) {
  gsub(/\\/, "\\\\", text)
  gsub(/@/, "\\@", text)
  gsub(/</, "\\<", text)
  gsub(/>/, "\\>", text)
  gsub(/#/, "\\#", text)
  gsub(/%/, "\\%", text)
  gsub(/"/, "\\\"", text)
  return text
}
function split_at(line, mark,   at) {
  at = index(line, mark)
  before = substr(line, 1, at - 1)
  after = substr(line, at + length(mark))
}
inside {
  if ((end = index($0, "*/")) > 0) inside = 0
  print plain($0)
  next
}
/^ *\/\* ----/ { if (!/\*\//) ruler = 1; print ""; next }
ruler { if (/\*\//) ruler = 0; print ""; next }
/\/\*/ && !/".*\/\*.*"/ {
  split_at($0, "/*")
  opens = before ~ /[^ ]/ ? "/**<" : (NR == 1 ? "/** \\file\n *" : "/**")
  print before opens plain(after)
  inside = index(after, "*/") == 0
  next
}
/\/\// && !/".*\/\/.*"/ {
  split_at($0, "//")
  if (after ~ /^ NOLINT/) { print before; next }
  if (before ~ /[^ ]/) opens = "///<"
  else opens = NR == 1 ? "/// \\file\n///" : "///"
  print before opens plain(after)
  next
}
{ print }
