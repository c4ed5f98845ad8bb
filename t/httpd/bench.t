#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# bench.t: the benchmarks of t/bench still run and still print the tables of
# doc/performance.md. Nothing here looks at how fast anything is: each shape
# runs for a fraction of a second with small numbers. Peers take part where they
# are installed. And a benchmark must notice a server that answers wrongly,
# since a fast wrong answer is the best figure of all.
use v5.36;
use Test::More;
use Cwd            qw(abs_path);
use File::Basename qw(dirname);

my $top;
BEGIN {
    $top = abs_path($ENV{abs_top_srcdir} // dirname(__FILE__) . '/../..');
    $ENV{abs_top_srcdir} //= $top;
    $ENV{abs_top_builddir} //= "$top/build/gcc";
    delete $ENV{SHAREDANCED};
}
use lib "$top/t/lib", "$top/t/bench/lib";
use Bench::Series qw(median);
use Bench::Server qw(start_ours start_floor start_memcached start_redis);

plan skip_all => 'taskset is not installed (package util-linux)'
    unless grep { -x "$_/taskset" } split /:/, $ENV{PATH};
-x "$ENV{abs_top_builddir}/t/bench/$_" or plan skip_all => "t/bench/$_ is not built" for qw(load fill idle floor);

# ---- what compare prints ----

# title => { head => [...], rows => [[...], ...] } of each table, in order.
sub sections ($text) {
    my @sections;
    for my $part (split /^### /m, $text) {
        my ($title, @lines) = split /\n/, $part;
        my @cells = map { [ split /\s*\|\s*/, s/^\|\s*//r ] } grep { /^\|/ } @lines;
        push @sections, { title => $title, head => $cells[0], rule => $cells[1], rows => [ @cells[ 2 .. $#cells ] ] }
            if @cells > 2;
    }
    return @sections;
}

my @sample = sections("### A, B\n\n| x | y |\n|---|---|\n| n | 1 |\n\nwords\n");
is_deeply(\@sample, [ { title => 'A, B', head => [ 'x', 'y' ], rule => [ '---', '---' ], rows => [ [ 'n', '1' ] ] } ], 'tables are read');

sub compare (@arguments) {
    open my $pipe, '-|', $^X, "$top/t/bench/compare", @arguments or die "compare: $!\n";
    my $text = do { local $/; readline $pipe };
    close $pipe;
    return ($?, $text // '');
}

my @peers = map { $_->[0] } grep { my $program = $_->[1]; grep { -x "$_/$program" } split(/:/, $ENV{PATH}), '/usr/bin' }
    [ 'memcached -t 1', 'memcached' ], [ 'Redis', 'redis-server' ];
note('without memcached and Redis, which are not installed') unless @peers;
my @floor = 'floor (no store)';

# A machine that stands still for the tenth of a second leaves a shape without
# a figure, which compare takes for a failure: then it is run again.
my ($status, $text);
for (1 .. 3) {
    ($status, $text) = compare(qw(-n 1 -t 0.1 -w 0.02 -c 4 --keys 200 --sessions 2000 --megabytes 8 --idle 50 once keep cycle many full idle page));
    last if $status == 0;
}
is($status, 0, 'compare runs all shapes of requests') or diag($text);
my @sections = sections($text);

subtest 'what a PHP page sees' => sub {
    plan skip_all => 'PHP is not installed' unless grep { -x "$_/php" } split /:/, $ENV{PATH};
    my ($ended, $shown) = compare(qw(-n 1 -t 0.2 php queue));
    is($ended, 0, 'compare runs these shapes, too') or diag($shown);
    my ($cycles, $queue) = sections($shown);
    like($cycles->{title}, qr/^A session cycle in one PHP process/, 'cycles');
    is($cycles->{rows}[0][0], 'mod_sessiond', 'ours first');
    like($_->[1], qr/^\d+$/, "$_->[0]: a figure") for @{ $cycles->{rows} };
    like($queue->{title}, qr/^40 requests of one user at once/, 'a queue');
    is_deeply([@{ $queue->{rows}[0] }[0 .. 3]], ['mod_sessiond', 40, 0, 40], 'ours serves all, one after the other, and counts each');
};

# title, the first cells of the rows in order, columns that are no figures
my @expected = (
    [ qr/^One request per connection, 2048 bytes, 50% stores, 4 clients/, [ 'mod_sessiond', @floor ], 1 ],
    [ qr/^Persistent connections, 2048 bytes/, [ 'mod_sessiond', @floor, @peers ], 1 ],
    [ qr/^A session cycle of a PHP page/, [ 'mod_sessiond', @floor, @peers ], 1 ],
    [ qr/^2,000 sessions against 200, \d+ bytes/, [ ('persistent') x 2, ('one request per connection') x 2 ], 1 ],
    [ qr/^Sessions in 8 MB when it is full/, [ map { my $size = $_; map { $size } 'ours', @peers } 600, 2048, 8192 ], 2 ],
    [ qr/^50 idle connections/, [ 'mod_sessiond', @peers ], 1 ],
    [ qr/^A static page of \d+ bytes/, [ 'nothing', 'mod_sessiond', grep { /memcached/ } @peers ], 1 ],
);
is(scalar @sections, scalar @expected, 'a table for each shape');

for my $i (0 .. $#expected) {
    my ($title, $names, $words) = @{ $expected[$i] };
    my $section = $sections[$i] // { title => '', head => [], rule => [], rows => [] };
    subtest "$title" => sub {
        like($section->{title}, $title, 'the heading');
        like($section->{title}, qr/1 (?:alternations|fills|fresh)/, '... says how often');
        is_deeply([ map { $_->[0] } @{ $section->{rows} } ], $names, 'who takes part');
        is(scalar @{ $section->{rule} }, scalar @{ $section->{head} }, 'the rule is as wide as the head');
        for my $row (@{ $section->{rows} }) {
            is(scalar @$row, scalar @{ $section->{head} }, "as many cells: $row->[0]");
            is_deeply([ grep { !/^(?:-?[\d,.]+%?|[\d.]+ to [\d.]+|-)$/ } @$row[ $words .. $#$row ] ], [], '... and all are figures');
        }
        like(join(' ', @{ $section->{head} }), qr/CPU .*p99|p99.*CPU/, 'processor time and latency stand side by side');
    };
}
like($text, qr/^Of our 8 MB, header and tables take \d\.\d% /m, 'the fixed part of the memory is told');
my ($full) = grep { $_->{title} =~ /full/ } @sections;
for my $row (grep { $_->[1] eq 'mod_sessiond' } @{ $full->{rows} }) {
    my ($percent) = $row->[2] =~ /^([\d.]+)%$/;
    ok($percent > 50 && $percent < 100, "median $row->[0]: $row->[2] of the memory holds sessions: it was filled");
}

($status, my $nothing) = compare('nonsense');
isnt($status, 0, 'an unknown shape is an error');
is($nothing, '', '... and nothing is measured');

# ---- figures ----

is(median(3, 1, 2), 2,   'the median of three');
is(median(4, 1, 2, 3), 2.5, '... of four');
my $series = Bench::Series->new;
$series->add(a => { cpu => $_ }) for 10, 20, 90;
$series->add(b => { cpu => $_ }) for 5, 20, 30;
is_deeply([ $series->ratio('a', 'b', 'cpu') ], [ 2, 1, 3 ], 'ratios are formed within an alternation, then the median is taken');

# ---- wrong answers are noticed ----

sub fails ($server, $program, %opt) { return eval { $server->run($program, %opt); 1 } ? '' : $@ }

my %short = (t => 0.1, w => 0, c => 2, k => 50, s => 300);
my $server = start_ours(memory => '8M');
is(fails($server, 'load', %short, f => undef), '', 'a good server passes');
is(fails($server, 'load', %short), '', '... once filled also without filling');
like(fails($server, 'load', %short, K => 1_000_000, r => 100), qr/misses=[1-9]/, 'misses end the benchmark');
like(fails($server, 'load', %short, s => 299, r => 100), qr/errors=[1-9]/, 'so do values of another size');
for my $pace (200, 2000) {
    my $value = $server->run('load', %short, t => 0.5, R => $pace);
    ok($value->{rate} <= 1.1 * $pace, "a pace of $pace in a second is not exceeded") or diag($value->{rate});
}
is(fails($server, 'fill', k => 50, s => 300, c => undef), '', 'what is filled is read back');
my $value = $server->run('fill', k => 100_000, s => 2000, L => 10, c => undef);
cmp_ok($value->{refused}, '>=', 10, 'a full server refuses');
is($value->{stored}, $value->{readable}, '... and has all that it took') or diag(explain($value));
$server->httpd->allow_log(qr/the session memory is full/);
$server->httpd->finish;

my $floor = start_floor('keep', 300);
isnt(fails($floor, 'fill', k => 1, s => 300, c => undef), '', 'a server that makes values up is found out');
$floor->stop;
done_testing;
