# Runs the suite with its output line by line: what a killed run had found is in the file all the
# same. Used as `tclsh line_buffered.tcl OPTIONS` from the folder that holds tests/.
fconfigure stdout -buffering line
set argv0 tests/test_helper.tcl
source $argv0
