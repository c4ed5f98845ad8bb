# SPDX-License-Identifier: Apache-2.0
#
# Bench::Page: do sessions slow the web server down? A static page is asked for
# again and again, on one core with httpd; on the other core the session server
# and its clients are as busy as they can be. The same with memcached beside an
# httpd without our module, at the number of requests that ours had just
# served; and with nothing beside it.
package Bench::Page;
use v5.36;

use POSIX ();
use Bench::Series qw(table);
use Bench::Server qw(start_ours start_memcached server_core load_core on_core);
use Sessiond::Test::Httpd;
use Sessiond::Test::Net qw(nap);

use constant { PAGE => 10_240, WEB_CLIENTS => 8, HEAD_START => 0.3 };

my %WEB = (
    docs   => { 'page.html' => 'x' x PAGE },
    config => "KeepAlive On\nMaxKeepAliveRequests 0\n",
);

# An httpd as something that can be loaded.
sub _web ($httpd) {
    return bless { name => 'httpd', dialect => 'http', port => $httpd->http_port, pid => $httpd->pid, httpd => $httpd },
        'Bench::Server';
}

# Runs code while the session server is loaded. Returns what both measured.
sub _beside ($server, $code, $opt, %load) {
    pipe my $reader, my $writer or die "pipe: $!\n";
    my $pid = fork // die "fork: $!\n";
    if ($pid == 0) {
        my $value = eval { $server->run('load', core => load_core(), t => $opt->{seconds} + 2 * HEAD_START,
            w => $opt->{warm_up}, s => $opt->{bytes}, c => $opt->{clients}, k => $opt->{keys}, f => undef, %load) };
        print {$writer} $value ? join(' ', map { "$_=$value->{$_}" } keys %$value) : "error $@";
        close $writer;
        POSIX::_exit(0);
    }
    close $writer;
    nap(HEAD_START + $opt->{warm_up});
    my $page = $code->();
    my $line = readline($reader) // '';
    waitpid $pid, 0;
    my %value = $line =~ /([\w.]+)=([\d.]+)/g;
    die 'load beside the web server: ' . ($line || 'no figures') . "\n" unless defined $value{rate};
    return ($page, \%value);
}

sub measure ($opt) {
    my ($ours, $plain) = on_core(server_core(), sub {
        return (start_ours(%WEB, core => load_core()),
            Sessiond::Test::Httpd->new(%WEB, module => 0, name => 'httpd alone')->start);
    });
    my $memcached = start_memcached();
    $memcached->move_to_core(load_core()) if $memcached;
    my ($with, $alone) = map { _web($_) } $ours->httpd, $plain;
    my $series = Bench::Series->new;
    my $ask = sub ($web) {
        return sub {
            return $web->run('load', core => server_core(), t => $opt->{seconds}, w => 0, r => 100, s => PAGE, c => WEB_CLIENTS);
        };
    };
    my @states = ('nothing', 'mod_sessiond', $memcached ? 'memcached -t 1' : ());
    for my $round (1 .. $opt->{alternations}) {
        my $add = sub ($state, $page, $sessions) {
            $series->add($state, { pages => $page->{rate}, p99 => $page->{p99}, p50 => $page->{p50},
                rate => $sessions->{rate} // 0, cpu => $sessions->{cpu} // 0, sessions_p99 => $sessions->{p99} // 0 });
        };
        $add->('nothing', $ask->($alone)->(), {});
        my ($page, $sessions) = _beside($ours, $ask->($with), $opt);
        $add->('mod_sessiond', $page, $sessions);
        $add->('memcached -t 1', _beside($memcached, $ask->($alone), $opt, R => int $sessions->{rate})) if $memcached;
    }
    table('A static page of ' . PAGE . ' bytes, ' . WEB_CLIENTS . " clients, while sessions are served on the other core, $opt->{alternations} alternations of $opt->{seconds} s",
        [ 'beside httpd', 'p99 of the page, us', 'its / nothing', 'range of that ratio', 'pages/s',
            'session requests/s', 'CPU of each, us', 'p99 of each, us' ],
        map { [ $_, sprintf('%.0f', $series->of($_, 'p99')), $series->ratio_cells($_, 'nothing', 'p99'),
                sprintf('%.0f', $series->of($_, 'pages')),
                $_ eq 'nothing' ? ('-') x 3 : (sprintf('%.0f', $series->of($_, 'rate')),
                    sprintf('%.1f', $series->of($_, 'cpu')), sprintf('%.0f', $series->of($_, 'sessions_p99'))) ] } @states);
    $ours->stop;
    $plain->stop;
    $memcached->stop if $memcached;
    return;
}

1;
