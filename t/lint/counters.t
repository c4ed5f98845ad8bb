#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# counters.t: no counter is silently forgotten. Each line of the table in
# shm/counters.h is described in doc/status.md under its ?auto key, is bumped
# somewhere in the code, and is read by a test: by name, or by a test that
# walks the whole table of shm/counters.h.
use v5.36;
use Test::More;
use FindBin;
use lib $FindBin::Bin;
use Tree qw(files slurp code_only);

sub table ($header) {
    my ($body) = code_only($header) =~ /#\s*define\s+SD_COUNTER_TABLE\(X\)((?:[^\n]*\\\n)*[^\n]*)/ or return;
    my @rows;
    while ($body =~ /\bX\(\s*(\w+)\s*,\s*(\w+)\s*,\s*(\w+)\s*,\s*"((?:[^"\\]|\\.)*)"\s*\)/g) {
        push @rows, { field => $1, key => "Sessiond$2", kind => $3, text => $4 };
    }
    return @rows;
}

is_deeply([table("#define SD_COUNTER_TABLE(X) \\\n X(a_b, AB, GAUGE, \"t (x)\") \\\n X(c, C, COUNTER, \"u\")\nX(d, D, COUNTER, \"v\")\n")],
    [{ field => 'a_b', key => 'SessiondAB', kind => 'GAUGE', text => 't (x)' },
     { field => 'c', key => 'SessiondC', kind => 'COUNTER', text => 'u' }], 'the table is read to its end');

my @rows = table(slurp('shm/counters.h'));
cmp_ok(scalar @rows, '>', 0, 'shm/counters.h has a table') or BAIL_OUT('no table was found');

my (%field, %key);
$field{ $_->{field} }++, $key{ $_->{key} }++ for @rows;
is_deeply([grep { $field{$_} > 1 } sort keys %field], [], 'no field twice');
is_deeply([grep { $key{$_} > 1 } sort keys %key], [], 'no key twice');
is_deeply([map { $_->{field} } grep { $_->{kind} !~ /^(?:COUNTER|GAUGE)$/ } @rows], [], 'kinds are COUNTER or GAUGE');
# apachectl status prints up to the first line that ends so.
is_deeply([map { $_->{field} } grep { $_->{text} =~ /process$/ } @rows], [], 'no text ends in "process"');

my $manual = slurp('doc/status.md');
my $code   = join "\n", map { code_only(slurp($_)) } grep { $_ ne 'shm/counters.h' } files(qr{^(?:shm|protocol|mod_sessiond)/.*\.[ch]$});
my @tests  = map { [$_, slurp($_)] } files(qr{^t/(?:unit/.*\.[ch]|(?:wire|httpd|php)/.*\.t)$});
my @whole  = map { $_->[0] } grep { $_->[1] =~ /SD_COUNTER_TABLE/ || $_->[1] =~ m{\bcounters\.h\b} && $_->[0] =~ /\.t$/ } @tests;
note("read the whole table: @whole");
my (@undescribed, @uncounted, @unread);
for my $row (@rows) {
    my ($field, $key) = @$row{qw(field key)};
    my ($short) = $key =~ /^Sessiond(.*)/;
    push @undescribed, $key unless $manual =~ /\b$key\b/;
    push @uncounted, $field unless $code =~ /\b$field\b/;
    push @unread, $field unless @whole || grep { $_->[1] =~ /\b(?:$field|$key)\b|['"]$short['"]/ } @tests;
}
is_deeply(\@undescribed, [], 'doc/status.md describes every key') or diag("missing: @undescribed");
is_deeply(\@uncounted, [], 'the code bumps every counter') or diag("missing: @uncounted");
is_deeply(\@unread, [], 'a test reads every counter') or diag("missing: @unread");
done_testing;
