# SPDX-License-Identifier: Apache-2.0
#
# Bench::Requests: what a request costs, ours beside the peers, in three shapes:
#
#   once   a connection for each request, as sharedance's clients do it
#   keep   connections that stay
#   cycle  what a PHP page does: a connection, read the session, write it, close;
#          sharedance's clients need two connections for that
package Bench::Requests;
use v5.36;

use Bench::Series qw(table);
use Bench::Server qw(start_ours start_floor start_memcached start_redis start_sharedanced);

my %TITLE = (
    once  => 'One request per connection',
    keep  => 'Persistent connections',
    cycle => 'A session cycle of a PHP page: connect, read, write, close',
);

# The servers that take part; the first is what others are compared with.
sub _servers ($shape, $bytes) {
    return (start_ours(dialect => 'sharedance'), start_floor('once', $bytes), start_sharedanced())
        if $shape eq 'once';
    my @list = (start_ours(), start_floor('keep', $bytes), start_memcached(), start_redis());
    push @list, start_sharedanced() if $shape eq 'cycle';
    return @list;
}

sub measure ($shape, $opt) {
    my @servers = _servers($shape, $opt->{bytes});
    my $series  = Bench::Series->new;
    for my $round (1 .. $opt->{alternations}) {
        for my $server (@servers) {
            $series->add($server->name, $server->run('load', t => $opt->{seconds}, w => $opt->{warm_up},
                s => $opt->{bytes}, c => $opt->{clients},
                k => $opt->{keys}, f => undef, $shape eq 'cycle' ? (y => undef) : ()));
        }
    }
    my $ours = $servers[0]->name;
    my $unit = $shape eq 'cycle' ? 'cycle' : 'operation';
    my $half = $shape eq 'cycle' ? '' : ', 50% stores';
    table("$TITLE{$shape}, $opt->{bytes} bytes$half, $opt->{clients} clients, $opt->{alternations} alternations of $opt->{seconds} s",
        [ 'server', "CPU per $unit, us", 'ours / its', 'range of that ratio', "${unit}s/s", 'p99, us' ],
        map { [ $_, sprintf('%.1f', $series->of($_, 'cpu')), $series->ratio_cells($ours, $_, 'cpu'),
                sprintf('%.0f', $series->of($_, 'rate')), sprintf('%.0f', $series->of($_, 'p99')) ] }
        map { $_->name } @servers);
    $_->stop for @servers;
    return;
}

1;
