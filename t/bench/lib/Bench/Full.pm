# SPDX-License-Identifier: Apache-2.0
#
# Bench::Full: how much of the memory given holds sessions when no more fit.
# Ours and Redis refuse then, memcached throws old ones out; so ours and Redis
# are filled until they refuse, memcached with three times what it can hold, and
# what counts everywhere is what can be read back: keys and data.
#
# Each fill has sizes of its own and a fresh server; all servers get the same.
package Bench::Full;
use v5.36;

use Bench::Series qw(table note);
use Bench::Server qw(start_ours start_memcached start_redis);

use constant { REFUSALS => 100, REWRITES => 2000, LARGEST => 1_000_000 };

my @MEDIANS = (600, 2048, 8192);

sub measure ($opt) {
    my $given = $opt->{megabytes} << 20;
    my (%series, @names, %fixed, @rows);
    for my $round (1 .. $opt->{alternations}) {
        for my $bytes (@MEDIANS) {
            for my $start (\&start_ours, \&start_memcached, \&start_redis) {
                my $server = $start->(memory => "$opt->{megabytes}M", megabytes => $opt->{megabytes}) or next;
                my $name = $server->name;
                push @names, $name unless grep { $_ eq $name } @names;
                _prepare($server, \%fixed) if $server->httpd;
                my $value = $server->run('fill', k => int($given * 3 / $bytes) + 1000, s => $bytes, g => 1,
                    x => LARGEST, S => $round, L => REFUSALS, T => 3 * $given, c => undef, n => REWRITES);
                $value->{payload} = 100 * $value->{readable_bytes} / $given;
                $value->{refused_rewrites} = 100 * $value->{rewrites_refused} / REWRITES;
                $value->{resident} = $server->memory->{resident} / (1 << 20);
                ($series{$bytes} //= Bench::Series->new)->add($name, $value);
                $server->stop;
            }
        }
    }
    for my $bytes (@MEDIANS) {
        my $series = $series{$bytes};
        push @rows, map { [ $bytes, $_,
                sprintf('%.1f%%', $series->of($_, 'payload')), sprintf('%.0f', $series->of($_, 'readable')),
                sprintf('%.0f', $series->of($_, 'resident')), sprintf('%.1f', $series->of($_, 'cpu')),
                sprintf('%.0f%%', $series->of($_, 'refused_rewrites')),
                sprintf('%.1f', $series->of($_, 'rewrite_cpu')), sprintf('%.0f', $series->of($_, 'rewrite_p99')) ] } @names;
    }
    table("Sessions in $opt->{megabytes} MB when it is full, log-normal sizes (sigma 1), $opt->{alternations} fills each",
        [ 'median size', 'server', 'keys and data, of the memory given', 'sessions', 'resident, MB',
            'CPU per store while filling, us', 'rewrites of live sessions refused', 'CPU per rewrite, us', 'p99 of 16 rewrites, us' ],
        @rows);
    note(sprintf 'Of our %d MB, header and tables take %.1f%% before anything is stored; beside the segment the process has %.1f MB.',
        $opt->{megabytes}, 100 * $fixed{segment} / $given, $fixed{process} / (1 << 20));
    return;
}

# Ours, before anything is stored.
sub _prepare ($server, $fixed) {
    my $httpd = $server->httpd;
    $httpd->allow_log(qr/the session memory is full/);
    $fixed->{segment} //= $httpd->value('MemoryUsed');
    $fixed->{process} //= $server->memory->{own};
    return;
}

1;
