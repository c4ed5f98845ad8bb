#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# shell.t: shellcheck over every shell script of the tree, found by its first
# line or its name. Skipped, with the reason, where shellcheck is missing.
use v5.36;
use Test::More;
use FindBin;
use lib $FindBin::Bin;
use Tree qw(top files slurp is_text);

my ($shellcheck) = grep { length && -x } $ENV{SHELLCHECK} // '', map { "$_/shellcheck" } split /:/, $ENV{PATH};
plan skip_all => 'shellcheck is not installed (package shellcheck)' unless $shellcheck;

sub check ($path) {
    open my $pipe, '-|', $shellcheck, '--color=never', '--external-sources', $path or die "$shellcheck: $!\n";
    my $output = do { local $/; readline $pipe };
    close $pipe;
    return ($?, $output // '');
}

my @scripts = grep {
    is_text($_) && (/\.sh$/ || slurp($_) =~ m{\A#!\s*/(?:usr/)?bin/(?:env\s+)?(?:ba|da)?sh\b})
} files(qr{.});
my %found = map { $_ => 1 } @scripts;
ok($found{dev} && $found{'.ci/run'}, 'the scripts everybody starts with are among those checked');

for my $path (@scripts) {
    my ($status, $output) = check(top() . "/$path");
    is($status, 0, $path) or diag($output);
}
done_testing;
