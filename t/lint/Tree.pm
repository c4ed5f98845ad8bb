# SPDX-License-Identifier: Apache-2.0
#
# Tree: the files of the source tree, for the lints.
#
# A lint must see the same files in a git checkout, in an unpacked release and
# in a tree that was built in place; so it walks the directories of the project
# and leaves out what the build makes, rather than asking git. A lint that finds
# nothing to look at has lost its subject and must fail: files() dies then.
package Tree;
use v5.36;

use Exporter       qw(import);
use File::Basename qw(dirname);
use File::Find     ();
use Cwd            qw(abs_path);

our @EXPORT_OK = qw(top files slurp is_text is_made code_only);

my @ROOMS = qw(.ci conf doc m4 mod_sessiond persist php protocol shm t tools);
my @TOP   = qw(.gitignore CHANGES CONTRIBUTING.md LICENSE Makefile.am README.md configure.ac dev);

# Made by autoreconf, configure, make or a test run.
my $MADE = qr{
    (?:^|/)\.(?:libs|deps)/ | (?:^|/)\.dirstamp$ | \.(?:o|lo|la|a|so|log|trs)$
    | ^m4/(?:libtool|lt\W?\w+)\.m4$ | ^t/tools/httpd-preloaded$
    | (?:^|/)\.phpunit[.\w]*(?:/|$)
}x;

sub top () {
    state $top = abs_path($ENV{abs_top_srcdir} // dirname(__FILE__) . '/../..');
    return $top;
}

sub is_made ($path) { return $path =~ $MADE }

# All files whose path, relative to the top, matches; sorted.
# A test or benchmark that was compiled in place.
sub is_program ($file) {
    open my $fh, '<:raw', $file or return 0;
    my $got = read $fh, my $magic, 4;
    return $got == 4 && $magic eq "\x7fELF";
}

sub files ($pattern) {
    state $all = _walk();
    my @found = grep { $_ =~ $pattern } @$all;
    die "no file matches $pattern: there is nothing to check\n" unless @found;
    return @found;
}

sub _walk () {
    my @all = grep { -f top() . "/$_" } @TOP;
    for my $room (grep { -d top() . "/$_" } @ROOMS) {
        File::Find::find({ no_chdir => 1, wanted => sub {
            return unless -f;
            my $path = substr $_, length(top()) + 1;
            push @all, $path unless is_made($path) || is_program($_);
        } }, top() . "/$room");
    }
    return [ sort @all ];
}

sub slurp ($path) {
    open my $fh, '<', top() . "/$path" or die "$path: $!\n";
    local $/;
    return readline($fh) // '';
}

sub is_text ($path) { return -T top() . "/$path" }

# C source without comments, literals kept; newlines stay, so that a line
# number is still right. A quote inside a comment, or the reverse, is no trap.
sub code_only ($source) {
    $source =~ s{("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|(/\*.*?\*/|//[^\n]*)}
                {defined $1 ? $1 : $2 =~ tr/\n//cdr || ' '}gse;
    return $source;
}

1;
