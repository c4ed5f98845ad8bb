#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
#
# Directives: a wrong one is refused by a configuration test, with a sentence
# that names the value and the bound, so that an admin can mend it without the
# manual; a right one is taken. What only shows at start (a busy port) ends
# the start with an exit code and a message on the console.
use v5.36;
use FindBin ();
use lib "$FindBin::Bin/../lib";
use Test::More;
use IO::Socket::INET ();
use Sessiond::Test::Httpd ();
use Sessiond::Test::Client ();
use Sessiond::Test::Net qw(has_ipv6);

my $h = Sessiond::Test::Httpd->new(name => 'config', modules => Sessiond::Test::Httpd->has_module('authz_host') ? ['authz_host'] : []);

# The sentence, without the "Syntax error on line 3 of /path" before it.
sub verdict ($config) {
    my ($status, $output) = $h->reconfigure($config)->configtest;
    my ($sentence) = $output =~ /Syntax error on line \d+ of [^\n]*\n(.*)/s;
    return ($status, $sentence // $output);
}

sub refused ($config, $value, $bound, $name = $config) {
    my ($status, $sentence) = verdict("$config\n");
    subtest "refused: $name" => sub {
        isnt($status, 0, 'the exit code says so');
        my ($directive) = $config =~ /(Sessiond\w+)[^\n]*$/;
        like($sentence, qr/\Q$directive\E/, 'names the directive');
        like($sentence, qr/\Q$value\E/, 'names the value') if length $value;
        my $rest = $sentence =~ s/(?<![\w.])\Q$value\E(?![\w.])//gr;
        like($rest, $bound, 'names the bound or what is allowed');
    } or diag "$config\n$sentence";
}

my $number = qr/\d/;

refused('SessiondListen 0',                 '0',     qr/\b1\b.*\b65535\b/s);
refused('SessiondListen 70000',             '70000', qr/65535/);
refused('SessiondListen -1',                '-1',    qr/65535|port/i);
refused('SessiondListen 127.0.0.1:0',       '0',     qr/65535/);
refused('SessiondListen 127.0.0.1:70000',   '70000', qr/65535/);
refused('SessiondListen 127.0.0.1:',        '127.0.0.1:', qr/port/i);
refused('SessiondListen 203.0.113.77:1042', '203.0.113.77', qr/address/i, 'an address that is not of this host');
refused('SessiondListen [2001:db8::77]:1042', '2001:db8::77', qr/address/i, 'an IPv6 address that is not of this host')
    if has_ipv6();
refused('SessiondListen unix:relative',     'relative', qr/path|absolute/i);
refused('SessiondListen unix:/x/y 0999',    '0999',  qr/mode|octal/i);
refused('SessiondListen unix:/' . 'long/' x 30 . 's', 'long/', qr/10[0-9]/, 'a Unix path that is too long');

refused('SessiondMemory 10K',    '10K', qr/\d+ ?[KMG]/);
refused('SessiondMemory 1E',     '1E',  qr/\bK\b.*\bM\b.*\bG\b/s);
refused('SessiondMemory 64MM',   '64MM', qr/\bK\b.*\bM\b.*\bG\b/s);
refused('SessiondMemory -64M',   '-64M', $number);
refused('SessiondMemory much',   'much', qr/\bK\b.*\bM\b.*\bG\b|\d+ ?[KMG]/s);
refused('SessiondMemory 99999999999999999999G', '99999999999999999999G', $number);
refused('SessiondMemory 17179869184G', '17179869184G', $number, 'a size that overflows 64 bits');

refused('SessiondMaxSize -1',    '-1',  $number);
refused('SessiondMaxSize 1E',    '1E',  qr/\bK\b.*\bM\b.*\bG\b/s);
refused("SessiondMemory 16M\nSessiondMaxSize 32M", '', qr/(?:\b32 ?M|33554432).*(?:\b16 ?M|16777216)/s,
    'SessiondMaxSize above SessiondMemory');

for my $directive (qw(SessiondExpiration SessiondTimeout SessiondIdleTimeout SessiondLockTimeout)) {
    refused("$directive -5",   '-5',   $number);
    refused("$directive 0",    '0',    $number);
    refused("$directive soon", 'soon', qr/number|seconds|\d/);
    refused("$directive 99999999999", '99999999999', $number);
    refused("$directive 5x",   '5x',   qr/number|seconds|\d/);
}
for my $directive (qw(SessiondMaxConnections SessiondBacklog SessiondThreads)) {
    refused("$directive -1",   '-1',   $number);
    refused("$directive 0",    '0',    $number);
    refused("$directive many", 'many', qr/number|\d/);
    refused("$directive 99999999999", '99999999999', $number);
}
refused('SessiondLockTimeout 86401', '86401', qr/\b1\b.*\b86400\b/s);
refused('SessiondWhenFull maybe', 'maybe', qr/refuse.*evict|evict.*refuse/s);

refused('SessiondAllow 300.1.2.3',   '300.1.2.3',   qr/address/i);
refused('SessiondAllow 10.0.0.0/33', '10.0.0.0/33', qr/32/);
refused('SessiondAllow fd00::/129',  'fd00::/129',  qr/128/);
refused('SessiondAllow 10.0.0.0/x',  '10.0.0.0/x',  qr/32|bits|number/i);
refused('SessiondAllow anybody',     'anybody',     qr/address|all/i);
refused('SessiondAllow',             '',            qr/address|argument/i, 'SessiondAllow without an address');

my @right = (
    'SessiondListen %PORT%', 'SessiondListen 127.0.0.1:%PORT2%',
    "SessiondListen unix:%ROOT%/s.sock", "SessiondListen unix:%ROOT%/t.sock 0600",
    'SessiondAllow 192.168.0.0/24', 'SessiondAllow 10.1.2.3 fd00::/8 ::1 10.0.0.0/8', 'SessiondAllow all',
    'SessiondMemory 16M', 'SessiondMaxSize 4M', 'SessiondExpiration 1440', 'SessiondTimeout 30',
    'SessiondIdleTimeout 600', 'SessiondLockTimeout 30', 'SessiondMaxConnections 500', 'SessiondBacklog 128', 'SessiondThreads 2',
    'SessiondWhenFull refuse', 'SessiondPersist sessions', 'SessiondPersistSync 2',
);
push @right, 'SessiondListen [::1]:%PORT3%' if has_ipv6();

subtest 'right directives' => sub {
    for my $line (@right, 'SessiondMemory 65536K', 'SessiondMemory 1G', 'SessiondMemory 67108864',
        'SessiondMaxSize 512K', 'SessiondWhenFull evict', 'SessiondExpiration 1',
        'SessiondLockTimeout 1', 'SessiondLockTimeout 86400') {
        my ($status, $output) = $h->reconfigure("$line\n")->configtest;
        is($status, 0, $line) or diag $output;
    }
    my ($status, $output) = $h->reconfigure(join "\n", @right)->configtest;
    is($status, 0, 'all of them together') or diag $output;
    ($status, $output) = $h->reconfigure('')->configtest;
    is($status, 0, 'none at all') or diag $output;
};

subtest 'the samples are right as they stand' => sub {
    plan skip_all => 'no mod_authz_host for Require local' unless Sessiond::Test::Httpd->has_module('authz_host');
    for my $name (glob Sessiond::Test::Httpd->top_srcdir . '/conf/*.conf') {
        open my $fh, '<', $name or die "$name: $!";
        my ($status, $output) = $h->reconfigure(do { local $/; readline $fh })->configtest;
        is($status, 0, $name =~ s{.*/}{}r) or diag $output;
    }
};

subtest 'only in the server config' => sub {
    my %example = map { /^(\S+)/ ? ($1 => $_) : () } @right;
    for my $line (map { $example{$_} } sort keys %example) {
        my ($directive) = split / /, $line;
        for my $section ('<VirtualHost *>', '<Directory "/tmp">', '<Location "/x">') {
            my $end = $section =~ s/<(\w+).*/<\/$1>/r;
            my ($status, $sentence) = verdict("$section\n$line\n$end\n");
            isnt($status, 0, "$directive in $section");
            like($sentence, qr/$directive/, 'is named');
        }
    }
};

subtest 'a busy port' => sub {
    my $holder = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $h->port(4), Listen => 1, ReuseAddr => 1)
        or die "listen: $!";
    $h->reconfigure("SessiondListen 127.0.0.1:%PORT%\nSessiondListen 127.0.0.1:%PORT4%\n");
    my ($status, $output) = $h->configtest;
    is($status, 0, 'a configuration test does not touch it') or diag $output;
    ($status, $output) = $h->try_start;
    isnt($status, 0, 'start fails with an exit code');
    like($output, qr/${\ $h->port(4)}/, 'and names the port on the console');
    like($output, qr/in use/i, 'and the reason');
    like($output, qr/could not bind to it; 'ss -ltnp' shows who has the port/, 'and what to do');
    is(Sessiond::Test::Client->new($h->port)->open, 'refused', 'nothing was left listening on the other port');
    $h->stop;
    close $holder;
    $h->allow_log(qr/in use|Configuration Failed|SessiondListen|no listening sockets/i);
};

subtest 'a fixed configuration starts' => sub {
    $h->reconfigure(join "\n", @right)->start;
    my $c = Sessiond::Test::Client->new($h->port);
    is($c->store('k', 'v'), 'ok', 'and serves');
    is($h->memory_megabytes, 16, 'with its SessiondMemory');
};

subtest 'without SessiondListen the module is off' => sub {
    $h->stop;
    $h->reconfigure("SessiondMemory 16M\n")->start;
    is($h->value('State'), 'off', 'and says so');
    is($h->server_status->{SessiondState} // 'off', 'off', 'in server-status as well');
};

$h->finish;
done_testing;
