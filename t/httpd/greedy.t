#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# One thread serves all, and a client keeps it busy: on one connection it asks
# for a megabyte after the other, or writes them, without a pause. It may have
# what is left over, but not hold the thread: others wait no longer than for a
# piece of its work. With thirty-two of them the pieces add up; then everybody
# is still served, and none of the thirty-two is left out.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use Sessiond::Test::BadClients ();
use Sessiond::Test::Client     ();
use Sessiond::Test::Httpd      ();
use Sessiond::Test::Load       ();
use Sessiond::Test::Timing     qw(median window p99_of windows_of);

my $LONG  = $ENV{SESSIOND_TEST_LONG};
my $TURNS = 5;
my $LAST  = $LONG ? 3 : 0.6;        # seconds of a window
my $MB    = 1 << 20;
my $MANY  = 1;                      # seconds that a request may take among thirty-two greedy ones

my $h = Sessiond::Test::Httpd->new(name => 'greedy', config => <<'END')->start;
SessiondListen 127.0.0.1:%PORT%
SessiondMemory 256M
SessiondThreads 1
END
my $c = Sessiond::Test::Client->new($h->port);
is($c->store("large$_", 'a' x $MB), 'ok', "a large session, large$_") for 1 .. 4;
my $load = Sessiond::Test::Load->new(addr => $h->port, clients => 8, extended => 0.5, rate => 200, live => 10,
    fetches => 0.6, timings => 1)->start;
$h->wait_for(sub { $h->value('Stores') > 200 }, 60, 'the load');

# A greedy group between quiet windows, again and again.
sub meanwhile ($kinds, $turns = $TURNS, $last = $LAST) {
    my (@quiet, @loud, %moved);
    for (1 .. $turns) {
        push @quiet, window($LAST);
        my $bad = Sessiond::Test::BadClients->new(addr => $h->port, kinds => $kinds, keys => [map { "large$_" } 1 .. 4])->start;
        $h->wait_for(sub { ($bad->seen->{bytes_in} // 0) + ($bad->seen->{bytes_out} // 0) > 32 * $MB }, 60, 'greed');
        push @loud, window($last);
        my $seen = $bad->stop;
        $moved{$_} += $seen->{$_} for keys %$seen;
        push @{ $moved{shares} }, map { $seen->{"least_$_"} / $seen->{"most_$_"} } sort keys %$kinds;
    }
    return (\@quiet, \@loud, \%moved);
}

my @judge;
for my $kind (qw(greedy_get greedy_put)) {
    push @judge, windows_of("beside one $kind", $load, ['store|update|fetch'], sub ($try) {
        my ($quiet, $loud, $moved) = meanwhile({ $kind => 1 });
        my $much = $kind =~ /get/ ? $moved->{bytes_in} : $moved->{bytes_out};
        cmp_ok($much, '>', 20 * $MB, sprintf "one $kind moves %.0f MB", $much / $MB);
        is($moved->{"reset_$kind"} // 0, 0, 'and is not reset for it');
        return ($quiet, $loud);
    });
}
{
    my ($quiet, $loud, $moved) = meanwhile({ greedy_get => 16, greedy_put => 16 }, 1, 3);    # sockets start unevenly
    cmp_ok($moved->{bytes_in} + $moved->{bytes_out}, '>', 20 * $MB, 'thirty-two move much');
    is(($moved->{reset_greedy_get} // 0) + ($moved->{reset_greedy_put} // 0), 0, 'and are not reset for it');
    cmp_ok(median(@{ $moved->{shares} }), '>', 0.1, 'each gets a share: ' . join ', ', map { sprintf '%.2f', $_ } @{ $moved->{shares} });
    push @judge, sub {
        my ($p99, $n) = p99_of($load, 'store|update|fetch', @$loud);
        cmp_ok($n, '>', 50, "others are served beside thirty-two ($n requests)");
        cmp_ok($p99, '<', $MANY, sprintf 'p99 %.0f ms', 1e3 * $p99);
    };
}

my $sum = $load->stop;
diag $load->describe;
$_->() for @judge;
is_deeply([@$sum{qw(missed wrong denied refused reset cut timeout)}], [(0) x 7], 'no request got another answer than its own');
is_deeply($sum->{other}, {}, 'and nothing else happened');
my $found = $load->verify;
is_deeply([@$found{qw(lost wrong unanswered)}], [0, 0, 0], 'nothing is lost') or diag join "\n", @{ $found->{examples} };
is($h->check, 'clean', 'the store is clean');
$h->finish;
done_testing;
