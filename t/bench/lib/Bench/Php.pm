# SPDX-License-Identifier: Apache-2.0
#
# Bench::Php: what a PHP page sees: a session cycle in one process, and forty
# requests of one user at the same moment. The peers are PHP's own extensions for
# memcached and Redis with their session locks on (stock settings of both else, and
# persistent connections where they have them), and sharedance's handler where
# SHAREDANCE_PHP names it. Whoever is not installed is left out.
package Bench::Php;
use v5.36;

use POSIX ();
use Bench::Series qw(table note);
use Bench::Server qw(start_ours start_memcached start_redis start_sharedanced server_core load_core on_core);
use Sessiond::Test::Httpd ();
use Sessiond::Test::Net   qw(now);

use constant { REQUESTS => 40, HOLD_MS => 20 };

my @COMMON = map { ('-d', $_) } qw(session.use_cookies=0 session.use_only_cookies=0 session.cache_limiter= session.use_strict_mode=0
    session.gc_probability=0 session.lazy_write=0 output_buffering=0 opcache.enable_cli=1 display_errors=0);

sub _php () { return (grep { -x } map { "$_/php" } split /:/, $ENV{PATH})[0] }

sub _has ($extension) {
    my $php = _php() or return;
    return scalar(`'$php' -m 2>/dev/null` =~ /^\Q$extension\E$/m);
}

# name => [server, ini settings, handler file]
sub _handlers () {
    my $prepend = Sessiond::Test::Httpd::top_srcdir() . '/php/prepend.php';
    my @all;
    my $ours = on_core(server_core(), sub { start_ours() });
    push @all, ['mod_sessiond', $ours, ['session.save_path=tcp://127.0.0.1:' . $ours->port . '?persistent=1&timeout=20'], $prepend];
    push @all, ['mod_sessiond, no locks', $ours, ['session.save_path=tcp://127.0.0.1:' . $ours->port . '?persistent=1&lock=off&timeout=20'], $prepend];
    if (_has('memcached') && (my $server = start_memcached())) {
        my @ini = ('session.save_handler=memcached', 'session.save_path=127.0.0.1:' . $server->port, 'memcached.sess_locking=1');
        push @all, ['php-memcached, persistent', $server, [@ini, 'memcached.sess_persistent=1'], ''];
        push @all, ['php-memcached', $server, \@ini, ''];
    }
    if (_has('redis') && (my $server = start_redis())) {
        push @all, ['phpredis', $server, ['session.save_handler=redis', 'session.save_path=tcp://127.0.0.1:' . $server->port . '?persistent=1',
            'redis.session.locking_enabled=1', 'redis.session.lock_expire=60'], ''];
    }
    if ($ENV{SHAREDANCE_PHP} && (my $server = start_sharedanced())) {
        push @all, ['sharedance 0.7\'s handler, no locks', $server, ['sharedance.port=' . $server->port], $ENV{SHAREDANCE_PHP}];
    }
    return @all;
}

sub _command ($handler, $script, @arguments) {
    my ($name, $server, $ini, $file) = @$handler;
    return (_php(), @COMMON, (map { ('-d', s/=(.*)/="$1"/r) } @$ini), Sessiond::Test::Httpd::top_srcdir() . "/t/bench/php/$script", @arguments, $file);
}

sub _cycle ($handler, $opt) {
    my @command = _command($handler, 'cycle.php', $opt->{seconds}, $opt->{bytes});
    my $line = on_core(load_core(), sub { open my $fh, '-|', @command or die "php: $!\n"; my $text = readline($fh) // ''; close $fh; $text });
    my %value = $line =~ /(\w+)=([\d.]+)/g;
    die "$handler->[0]: no figures\n" unless $value{us};
    return \%value;
}

sub cycles ($opt) {
    return note('PHP is not installed: no session cycles.') unless _php();
    my @handlers = _handlers();
    my $series   = Bench::Series->new;
    for my $round (1 .. $opt->{alternations}) {
        $series->add($_->[0], _cycle($_, $opt)) for @handlers;
    }
    table("A session cycle in one PHP process: start, change, commit; $opt->{bytes} bytes, $opt->{alternations} alternations of $opt->{seconds} s",
        ['handler', 'us for a cycle', 'ours / its', 'range of that ratio', 'CPU of PHP, us'],
        map { [ $_->[0], sprintf('%.0f', $series->of($_->[0], 'us')), $series->ratio_cells('mod_sessiond', $_->[0], 'us'),
                sprintf('%.0f', $series->of($_->[0], 'cpu')) ] } @handlers);
    return;
}

# ---- forty at once ----

sub _queue ($handler, $begun) {
    my ($clock) = `'@{[_php()]}' -r 'echo hrtime(true);'` =~ /(\d+)/;
    my $start = $clock + 3_000_000_000;    # all have begun by then
    my @readers;
    for (1 .. REQUESTS) {
        open my $fh, '-|', _command($handler, 'queue.php', $start, HOLD_MS) or die "php: $!\n";
        push @readers, $fh;
    }
    my (@had, $failed);
    my $count = 0;
    for my $fh (@readers) {
        my ($outcome, $had, $let, $n) = (readline($fh) // '') =~ /^(.*) (\d+) (\d+) (\d+)$/;
        $count = $n if ($n // 0) > $count;
        if (($outcome // '') eq 'ok') { push @had, [$had, $let] }
        else                          { $failed++ }
        close $fh;
    }
    @had = sort { $a->[0] <=> $b->[0] } @had;
    my @gaps = sort { $a <=> $b } map { ($had[$_][0] - $had[ $_ - 1 ][1]) / 1e6 } 1 .. $#had;
    my %found = (count => $count - $$begun, served => scalar @had, failed => $failed // 0, total => @had ? ($had[-1][1] - $start) / 1e9 : 0);
    $$begun = $count;
    @found{qw(p50 p99)} = @gaps ? ($gaps[ $#gaps / 2 ], $gaps[-1]) : (0, 0);
    return \%found;
}

sub queues ($opt) {
    return note('PHP is not installed: no queues.') unless _php();
    my @handlers = grep { $_->[0] !~ /no locks/ } _handlers();
    my $series   = Bench::Series->new;
    my %count;
    for my $round (1 .. $opt->{alternations}) {
        $series->add($_->[0], _queue($_, \($count{ $_->[1] } //= 0))) for @handlers;
    }
    table(REQUESTS . ' requests of one user at once, each holds the session for ' . HOLD_MS . " ms, medians of $opt->{alternations} rounds",
        ['handler', 'served', 'failed', 'counted', 'all over after, s', 'from one to the next, p50 ms', 'longest, ms'],
        map { my $name = $_->[0];
              [ $name, (map { sprintf '%.0f', $series->of($name, $_) } qw(served failed count)), sprintf('%.2f', $series->of($name, 'total')),
                map { sprintf '%.2f', $series->of($name, $_) } qw(p50 p99) ] } @handlers);
    note('The least that is possible is ' . REQUESTS * HOLD_MS / 1000 . ' s.');
    return;
}

1;
