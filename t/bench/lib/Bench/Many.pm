# SPDX-License-Identifier: Apache-2.0
#
# Bench::Many: does it become slower when there are many sessions? Two servers
# with the same configuration, one with few sessions and one with millions, take
# turns. Keys are drawn from all of them, so that with the many ones hardly
# a session is found in the processor's caches.
package Bench::Many;
use v5.36;

use Bench::Series qw(table note);
use Bench::Server qw(start_ours);

use constant { BLOCK => 256, HEAD => 40, KEY => 32, PER_BLOCK => 264 };

# Bytes of memory that so many sessions take, and a little over.
sub _needs ($sessions, $bytes) {
    my $blocks = int((HEAD + KEY + $bytes + BLOCK - 1) / BLOCK);
    return int($sessions * $blocks * PER_BLOCK * 1.02) + (16 << 20);
}

sub _available () {
    open my $fh, '<', '/proc/meminfo' or die "/proc/meminfo: $!\n";
    my ($kb) = join('', readline $fh) =~ /^MemAvailable:\s+(\d+)/m;
    return $kb * 1024;
}

sub _written ($n) { return scalar reverse(reverse($n) =~ s/(\d{3})(?=\d)/$1,/gr) }

sub measure ($opt) {
    my $many = $opt->{sessions};
    my $few  = $opt->{keys};
    # As large as the machine has room for; both segments count, and the process's own.
    my ($bytes) = grep { _needs($many, $_) * 1.05 + (1 << 30) < _available() } 900, 600, 350, 150;
    if (!$bytes) {
        note("(No room here for $many sessions.)");
        return;
    }
    my $memory = sprintf '%dM', _needs($many, $bytes) / (1 << 20) + 1;
    my $series = Bench::Series->new;
    my %count  = (few => $few, many => $many);
    my %server = map { $_ => start_ours(memory => $memory) } qw(few many);
    $server{$_}->run('fill', k => $count{$_}, s => $bytes) for qw(few many);
    for my $round (1 .. $opt->{alternations}) {
        for my $shape (qw(keep once)) {
            for my $which (qw(few many)) {
                local $server{$which}{dialect} = $shape eq 'once' ? 'sharedance' : 'extended';
                $series->add("$shape $which", $server{$which}->run('load', t => $opt->{seconds}, w => $opt->{warm_up},
                    s => $bytes, c => $opt->{clients}, k => $count{$which}));
            }
        }
    }
    my %word = (keep => 'persistent', once => 'one request per connection');
    table(_written($many) . ' sessions against ' . _written($few) . ", $bytes bytes, 50% stores, SessiondMemory $memory, "
            . "$opt->{clients} clients, $opt->{alternations} alternations of $opt->{seconds} s",
        [ 'connections', 'sessions', 'p99, us', 'many / few', 'range of that ratio',
            'CPU per operation, us', 'many / few', 'range of that ratio', 'operations/s' ],
        map { my ($shape, $which) = split ' ';
            [ $word{$shape}, _written($count{$which}),
                sprintf('%.0f', $series->of($_, 'p99')), $series->ratio_cells($_, "$shape few", 'p99'),
                sprintf('%.1f', $series->of($_, 'cpu')), $series->ratio_cells($_, "$shape few", 'cpu'),
                sprintf('%.0f', $series->of($_, 'rate')) ] }
        'keep few', 'keep many', 'once few', 'once many');
    $_->stop for values %server;
    return;
}

1;
