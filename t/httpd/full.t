#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# Full memory is an error and not a loss: a store that finds no room gets a
# reset and never an "OK", every earlier session stays readable, a live one can
# still be updated. With SessiondWhenFull evict new stores succeed, and those
# nearest their expiry go.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use Sessiond::Test::Httpd  ();
use Sessiond::Test::Client qw(frame_get);
use Sessiond::Test::Load   qw(make_value check_value);

my $config = <<'END';
SessiondListen 127.0.0.1:%PORT%
SessiondMemory 8M
SessiondMaxSize 1M
END
my $h = Sessiond::Test::Httpd->new(name => 'full', config => $config)->start;
my $c   = Sessiond::Test::Client->new($h->port);
my $ext = Sessiond::Test::Client->new($h->port);

# How many of these keys hold their value.
sub readable (@keys) {
    my $good = 0;
    while (my @some = splice @keys, 0, 100) {
        my ($outcome, @replies) = $ext->call(map { frame_get($_) } @some);
        die "get: $outcome" if $outcome ne 'ok';
        for my $i (0 .. $#some) {
            $good++ if $replies[$i]{type} eq 'V' && check_value($some[$i], $replies[$i]{data});
        }
    }
    return $good;
}

my (@stored, %refused, %size);
subtest 'refuse: until it is full and beyond' => sub {
    my ($n, $n_refused) = (0, 0);
    while ($n_refused < 300 && $n < 20_000) {
        my $key = 'fill' . ++$n;
        $size{$key} = (500, 2000, 9000)[$n % 3];
        my $outcome = $c->store($key, make_value($key, 1, $size{$key}));
        if ($outcome eq 'ok') { push @stored, $key }
        else                  { $refused{$outcome}++; $n_refused++ }
    }
    is_deeply([keys %refused], ['reset'], 'a store that finds no room is reset, and nothing else');
    is($n_refused, 300, 'three hundred were refused');
    cmp_ok(scalar @stored, '>', 1000, scalar(@stored) . ' were stored before');
    is($h->value('RefusedFull'), $n_refused, 'each refusal was counted');
    is(readable(@stored), scalar @stored, 'everything stored is readable');
    is($h->value('Sessions'), scalar @stored, 'and is all there is');
    is($h->value('Evicted'), 0, 'nothing was evicted');
};

subtest 'refuse: W gets E and keeps its connection' => sub {
    my ($outcome, $reply) = $ext->write('big-w', make_value('big-w', 1, 200_000), 0, 0);
    is_deeply([$outcome, $reply->{type}], ['ok', 'E'], 'E');
    like($reply->{text} // '', qr/full|memory/i, 'with the reason');
    is(($ext->get('big-w'))[1]{type}, 'N', 'nothing was written; the connection stays');
};

subtest 'refuse: a live session can still be updated' => sub {
    # Small ones fill the last block that others may have.
    my $n = 0;
    $n++ while $c->store("last$n", 'x') eq 'ok' && $n < 10_000;
    my @some = @stored[map { $_ * int(@stored / 50) } 0 .. 49];
    my $updated = grep { $c->store($_, make_value($_, 2, $size{$_})) eq 'ok' } @some;
    is($updated, scalar @some, 'fifty sessions take an update while new ones are refused');
    is(readable(@some), scalar @some, 'which is what is read');
    isnt($c->store('another-new-one', 'x' x 9000), 'ok', 'a new one is still refused');
    is(readable(@stored), scalar @stored, 'and nothing was lost over it');
};

subtest 'refuse: room comes back' => sub {
    is($c->delete($_), 'ok', "delete of $_") for my @gone = splice @stored, 0, 60;
    is($c->store("after$_", make_value("after$_", 1, 2000)), 'ok', 'then there is room') for 1 .. 10;
};

my @lines = grep { /\[sessiond:/ && /full/i } split /\n/, $h->error_log;
cmp_ok(scalar @lines, '>=', 1, 'the log says that memory is full');
cmp_ok(scalar @lines, '<=', 2, 'once a minute at most') or diag join "\n", @lines;
is($h->check, 'clean', 'the store is clean');

subtest 'evict' => sub {
    $h->stop;
    $h->reconfigure($config . "SessiondWhenFull evict\n")->start;
    $ext->close;
    # Half of the memory ends soon, a quarter late; what comes then is more
    # than the rest, but less than the rest and what ends soon.
    my $unit = 4000;
    my $fit  = int 0.92 * (8 << 20) / ($unit + 300);
    my %keys = (soon => [map { "soon$_" } 1 .. $fit / 2], late => [map { "late$_" } 1 .. $fit / 4],
        new => [map { "new$_" } 1 .. $fit / 2]);
    for my $group (['soon', 600], ['late', 86_400], ['new', 3600]) {
        my ($name, $ttl) = @$group;
        my $written = grep { ($ext->write($_, make_value($_, 1, $unit), $ttl))[1]{type} eq 'K' } @{ $keys{$name} };
        is($written, scalar @{ $keys{$name} }, "all of '$name' are written");
    }
    is(readable(@{ $keys{new} }), scalar @{ $keys{new} }, 'the new ones are readable');
    is(readable(@{ $keys{late} }), scalar @{ $keys{late} }, 'those that end late are too');
    my $left = readable(@{ $keys{soon} });
    cmp_ok($left, '<', scalar @{ $keys{soon} }, "of those that end soon $left are left");
    is($h->value('Evicted'), @{ $keys{soon} } - $left, 'the others were counted as evicted');
    is($h->value('RefusedFull'), 0, 'nothing was refused');
    is($c->store('plain', make_value('plain', 1, 100_000)), 'ok', 'a large one makes room for itself');
    is(readable('plain'), 1, 'and is readable');
    is($h->check, 'clean', 'the store is clean');
};

$h->allow_log(qr/full/i);
$h->finish;
done_testing;
