#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# registered.t: no file is silently forgotten. A test that Makefile.am does not
# name is never run, and any other file it does not name is missing from the
# release; so every file of the tree must stand there, itself or the directory
# that is released whole, and a name there must have its file. (make itself
# complains only about the second, and late.)
use v5.36;
use Test::More;
use FindBin;
use lib $FindBin::Bin;
use Tree qw(top files slurp is_made);

# automake distributes these by itself.
my %IMPLIED = map { $_ => 1 } qw(Makefile.am configure.ac t/tools/httpd-preloaded.in);
# No part of a release.
my %LEFT_OUT = map { $_ => 1 } qw(.gitignore);

# list name => { path => 1 }; continuation lines belong to their list.
sub lists ($makefile) {
    $makefile =~ s/^#.*\n//mg;
    $makefile =~ s/\\\n/ /g;
    my %lists;
    for my $line (split /\n/, $makefile) {
        next unless $line =~ /^(\w+)\s*\+?=\s*(.*)$/;
        $lists{$1}{$_} = 1 for grep { !/^[\$-]/ } split ' ', $2;
    }
    return %lists;
}

my %sample = lists("# a = no\nunit_tests = \\\n\tt/unit/test_a \\\n\tt/unit/test_b\nother = x\n");
is_deeply(\%sample, { unit_tests => { 't/unit/test_a' => 1, 't/unit/test_b' => 1 }, other => { x => 1 } }, 'lists are read');

# With the parts that it includes; automake releases these by itself, too.
sub whole_makefile () {
    return slurp('Makefile.am') =~ s/^include (\S+)$/$IMPLIED{$1} = 1; slurp($1)/gemr;
}

my %lists = lists(whole_makefile());
my %named = map { %$_ } values %lists;

for my $path (grep { slurp($_) =~ /^int main\(/m } files(qr{^t/(?:unit|wire)/\w+\.c$})) {
    my ($kind) = $path =~ m{^t/(\w+)/};
    my $program = $path =~ s/\.c$//r;
    ok($lists{"${kind}_tests"}{$program}, "$path is run: $program is in ${kind}_tests");
}
for my $path (files(qr{^t/(?:lint|wire|httpd|import|php)/.*\.t$})) {
    my ($kind) = $path =~ m{^t/(\w+)/};
    ok($lists{"${kind}_tests"}{$path}, "$path is run: it is in ${kind}_tests");
}

# A fuzz target is run over each file of its own directory, whatever their names.
my %targets = map { m{^t/fuzz/fuzz_(\w+)$} ? ($1 => 1) : () } keys %{ $lists{fuzz_tests} };
my %corpora = map { m{^t/fuzz/corpus/(\w+)/[^/]+$} ? ($1 => 1) : ("a stray file $_" => 1) } files(qr{^t/fuzz/corpus/});
for my $path (grep { slurp($_) =~ /^int LLVMFuzzerTestOneInput\([^;]*$/m } files(qr{^t/fuzz/\w+\.c$})) {
    my ($target) = $path =~ m{^t/fuzz/fuzz_(\w+)\.c$};
    ok(defined $target && $targets{$target}, "$path is run: it is in fuzz_tests, as fuzz_NAME");
}
is_deeply([sort keys %corpora], [sort keys %targets], 'every fuzz target has its corpus, and every corpus its target');

sub is_in_named_directory ($path) {
    while ($path =~ s{/[^/]+$}{}) {
        return 1 if $lists{EXTRA_DIST}{$path};
    }
    return 0;
}

my @unnamed = grep {
    !$named{$_} && !$IMPLIED{$_} && !$LEFT_OUT{$_} && !(m{^(t/(?:unit|bench|fuzz)/\w+)\.c$} && $named{$1})
        && !is_in_named_directory($_)
} files(qr{.});
is_deeply(\@unnamed, [], 'every file of the tree is named in Makefile.am')
    or diag("add each to the list it belongs to, or to EXTRA_DIST: @unnamed");

my @absent = grep {
    my $path = $_;
    $path =~ m{^(?:shm|persist|protocol|mod_sessiond|php|conf|doc|t|tools|m4|\.ci)/} && !-e top() . "/$path"
        && $path !~ /\.la$/ && !-e top() . "/$path.c" && !is_made($path)
} sort keys %named;
is_deeply(\@absent, [], 'every file named in Makefile.am exists') or diag("absent: @absent");
done_testing;
